"""What a training takes in memory: against a real one, against a full machine, and at its end."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from defectgen import Backbone, DefectSynthesizer, TrainingError, TrainingWarning
from defectgen.config import backbone_config, backbone_training
from defectgen.training import footprint
from defectgen.training.footprint import GAME, free, needed, out_of_memory, warn_if_short
from defectgen.training.loop import run

CPU = torch.device("cpu")
#: One step of every phase, in a process of its own; prints what it took beyond its networks, in MB.
REAL = """
import resource, sys, torch
from defectgen import backbone_fit
from defectgen.augment.policy import POLICIES
from defectgen.config import backbone_config, backbone_training
from defectgen.memory import kept_memory
from defectgen.training.loop import _step
from defectgen.training.phases import Batch

def peak():
    status = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1000

shape, batch = backbone_config(64, 3, None), 48
train = backbone_training(shape, preset=None, kimg=1, batch_size=batch, seed=0)
images = torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8)
task = backbone_fit.build_task(shape, train, images, POLICIES["safe"], torch.device("cpu"))
before = peak()
with kept_memory():
    for phase in task.phases():
        _step(task.state, phase, Batch(task.images, torch.arange(batch)))
print(peak() - before, task.state.weights())
"""


def numbers(side=64, batch=16, precision="fp32"):
    shape = backbone_config(side, 3, None)
    given = {"preset": None, "kimg": 1, "batch_size": batch, "seed": 0, "precision": precision}
    return shape, backbone_training(shape, **given)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 8 GB free, in a container whose files the test writes."""
    monkeypatch.setattr(footprint, "_free_of_system", lambda: 8 * 10**9)
    monkeypatch.setattr(footprint, "_CGROUP", tmp_path)
    return tmp_path


def limit(folder, most, used, cached):
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 5\nfile 7\ninactive_file {cached - cached // 4}\nactive_file {cached // 4}\n"
    )


def test_what_a_system_without_proc_tells_is_what_is_free(monkeypatch):
    monkeypatch.setattr(footprint, "Path", lambda name: Path(f"/nowhere{name}"))
    monkeypatch.setattr(footprint, "memory", lambda: (16 << 30, 5 << 30))
    assert footprint._free_of_system() == 5 << 30
    monkeypatch.setattr(footprint, "memory", lambda: None)
    assert footprint._free_of_system() is None


# -- how much --


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak")
def test_the_estimate_is_that_of_a_real_training_within_a_third():
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=True)
    measured, weights = map(float, done.stdout.split())
    estimate = needed(*numbers(batch=48), GAME, int(weights)) / 1e6
    assert 0.75 < estimate / measured < 1.35


def test_it_grows_with_images_and_pixels_and_shrinks_with_bits():
    one = needed(*numbers(), GAME, 0)
    assert needed(*numbers(batch=32), GAME, 0) == 2 * one
    assert needed(*numbers(precision="bf16"), GAME, 0) < 0.7 * one
    assert needed(*numbers(), GAME, 10**6) == one + 12 * 10**6
    assert needed(*numbers(512), GAME, 0) == pytest.approx(4 * needed(*numbers(256), GAME, 0), 0.5)


# -- how much there is --


def test_a_container_without_a_limit_leaves_what_the_machine_has(system):
    assert free(CPU) == 8 * 10**9
    limit(system, "max", 10**9, 0)
    assert free(CPU) == 8 * 10**9


def test_a_container_with_a_limit_leaves_less_but_for_cached_files(system):
    limit(system, 4 * 10**9, 3 * 10**9, 10**9)
    assert free(CPU) == 2 * 10**9
    limit(system, 10**9, 3 * 10**9, 0)
    assert free(CPU) == 0


def test_this_machine_has_some():
    assert 10**6 < free(CPU) < 10**14


# -- what is said --


def test_a_training_that_fits_says_nothing(system):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_short(*numbers(), GAME, 10**6, CPU)


@pytest.mark.parametrize("device", ["meta", "mps"])
def test_where_nobody_knows_nothing_is_said(system, device):
    limit(system, 1, 1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_short(*numbers(1024), GAME, 10**6, torch.device(device))


def test_the_batch_that_is_named_fits(system):
    shape, train = numbers(1024, 16)
    with pytest.warns(TrainingWarning, match=r"16 of 1024 px take about 1\d\.\d GB") as told:
        warn_if_short(shape, train, GAME, 10**6, CPU)
    text = str(told[0].message)
    assert "and 8.0 GB are free; construct with batch_size=" in text
    fits = int(text.rsplit("=", 1)[1])
    most = 0.9 * 8 * 10**9
    assert needed(*numbers(1024, fits), GAME, 10**6) <= most
    assert needed(*numbers(1024, fits + 1), GAME, 10**6) > most


def test_where_not_even_one_fits_the_resolution_is_too_high(system):
    limit(system, 10**9, 10**9 - 10**7, 0)
    with pytest.warns(TrainingWarning, match="construct with a lower resolution"):
        warn_if_short(*numbers(256), GAME, 10**6, CPU)


def test_a_fit_says_so_before_it_begins(system):
    limit(system, 10**9, 10**9 - 10**7, 0)
    photos = list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    with pytest.warns(TrainingWarning, match="batch_size: as many images as fit") as told:
        Backbone(32, kimg=0.016, seed=0, verbose=0).fit(photos)
    assert told[0].filename == __file__


@pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning")
def test_a_fit_of_a_defect_says_so_too(system, fitted_backbone, defects):
    limit(system, 10**9, 10**9 - 10**7, 0)
    synth = DefectSynthesizer(fitted_backbone, kimg=0.004, batch_size=4, seed=0, verbose=0)
    with pytest.warns(TrainingWarning, match="batch_size: as many images as fit") as told:
        synth.fit(*defects(4))
    assert any(one.filename == __file__ for one in told)


# -- when it ends --


def test_a_training_that_runs_out_of_memory_says_so_and_keeps_its_last_tick(
    make_state, linear_phase, batches
):
    state = make_state()
    start = state.modules["net"].weight.tolist()

    def greedy(loss):
        if state.iteration == 5:
            torch.empty(2**60)
        return loss

    with pytest.raises(TrainingError, match=r"got 4, and memory ended \(.*of 0\.02 kimg, is kept"):
        run(state, batches, [linear_phase(state, before=greedy)], tick_images=8)
    assert state.images == 16
    assert state.iteration == 4
    assert state.modules["net"].weight.tolist() != start


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("The size of tensor a (2) must match"), False),
        (ValueError("cannot allocate memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_an_end_of_memory_is(error, told):
    assert out_of_memory(error) is told

"""Peak memory of one job, measured in a process of its own: ``python -m benchmarks.memory JOB``.

``python -m benchmarks.memory footprint STAGE SIDE BATCH PRECISION`` compares a training of the
default recipe with what `defectgen.training.footprint` says of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def peak(job: str, *words: str) -> float:
    """Peak resident memory of a job, GiB."""
    command = [sys.executable, "-m", "benchmarks.memory", job, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def sampling(count: str) -> None:
    """Draw from a synthesizer that was fitted for one iteration and throw the batches away."""
    from defectgen import DefectSynthesizer
    from defectgen.data.example import example_folders

    example = example_folders()
    synth = DefectSynthesizer(example.backbone, kimg=0.016, seed=0, verbose=0, device="cpu")
    synth.fit(example.defects, example.masks)
    for _ in synth.iter_samples(int(count), seed=0):
        pass


def training(stage: str, precision: str, batch: str) -> None:
    """One step of every phase at 256 px, twice."""
    from benchmarks.cases import LARGE, Case
    from defectgen.memory import kept_memory
    from defectgen.networks.precision import in_precision

    case = Case(LARGE, textbook=False, batch=int(batch))
    with kept_memory(), in_precision(precision):
        for _ in range(2):
            for _, step in case.phases(stage).values():
                step()


def footprint(stage: str, side: str, batch: str, precision: str) -> None:
    """One step of every phase, twice: what it took beyond networks and images, what was told."""
    import torch

    from defectgen import Backbone, backbone_fit, defect_fit
    from defectgen.augment.policy import POLICIES
    from defectgen.config import backbone_config, backbone_training, defect_training
    from defectgen.data.images import load_pairs
    from defectgen.memory import kept_memory
    from defectgen.networks.precision import in_precision
    from defectgen.training import footprint as told
    from defectgen.training.loop import _step
    from defectgen.training.phases import Batch

    size, count, policy = int(side), int(batch), POLICIES["safe"]
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=source)
    shape = backbone_config(size, 3, None)
    given: dict[str, Any] = {"preset": None, "kimg": None, "batch_size": count, "seed": 0}
    train = backbone_training(shape, precision=precision, **given)
    task: Any = backbone_fit.build_task(shape, train, images, policy, torch.device("cpu"))
    kind, masks = told.GAME, None
    if stage == "defect":
        backbone = Backbone(size, verbose=0)
        backbone.generator, backbone.discriminator = task.average, task.judge
        backbone.config_ = {"augment": {"policy": policy.to_dict()}, "data": {"layout": "free"}}
        spot = torch.zeros(count, 1, size, size, dtype=torch.uint8)
        spot[..., size // 4 : size // 2, size // 4 : size // 2] = 255
        pairs = load_pairs(images, spot, resolution=size, channels=3)
        train = defect_training(shape, warm=True, precision=precision, **given)
        task = defect_fit.build_task(backbone, pairs, train, policy, None, None, None)
        kind, masks = told.IMPOSED, task.masks[:count]
    task.state.ada.p = 0.3
    Path("/proc/self/clear_refs").write_text("5")  # a new peak: building has one of its own
    before = _peak()
    with kept_memory(), in_precision(precision):
        for phase in 2 * task.phases():
            _step(task.state, phase, Batch(task.images[:count], torch.arange(count), masks))
    estimate = told.needed(shape, train, kind, task.state.weights()) / 2**30
    print(f"before {before:.2f} GiB, more {_peak() - before:.2f} GiB, told {estimate:.2f} GiB")


def _peak() -> float:
    """Largest resident memory of this process, GiB."""
    # Of this program alone: getrusage would count what the process was before it became this one.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20


if __name__ == "__main__":
    jobs = {"sampling": sampling, "training": training, "footprint": footprint}
    jobs[sys.argv[1]](*sys.argv[2:])
    print(_peak())

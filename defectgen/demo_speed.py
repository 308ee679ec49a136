"""How much faster the demo is than plain PyTorch, measured where and when it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from defectgen.config import TrainConfig, defect_training
from defectgen.data.images import PairSet
from defectgen.defect_fit import build_task, defect_policy
from defectgen.memory import kept_memory
from defectgen.ops import use_kernels
from defectgen.ops._dispatch import mode, native
from defectgen.rng import sample_seeds
from defectgen.sampling import iter_defects
from defectgen.synthesizer import DefectSynthesizer
from defectgen.training.loop import _step
from defectgen.training.phases import Batch

#: Samples and real images of one measured pass.
BATCH = 16

Parts = dict[str, Callable[[], object]]


def measure_speed(synth: DefectSynthesizer, pairs: PairSet) -> dict[str, float]:
    """Milliseconds per image, with native kernels and kept memory, and without both.

    Sampling: one batch with masks. Training: one adversarial iteration of the recipe, lazy terms
    spread over their interval. Each way runs once before its clock starts.

    Returns:
        "sampling", "sampling, plain", "training", "training, plain", and "native", which is 1 if
        native kernels were at work.
    """
    backbone = synth.backbone_
    network, branch = backbone.fitted(), synth.branch_
    config = network.config
    train = defect_training(
        config, preset=synth.preset, kimg=1.0, batch_size=BATCH, seed=0, warm=False
    )
    seeds = sample_seeds(BATCH, 0)

    def sample() -> None:
        list(iter_defects(network, branch, seeds, 1.0, normals=False, batch_size=BATCH))

    found = {"native": float(mode() != "reference" and native(network.mapping.w_avg.device.type))}
    jobs: dict[str, Parts] = {"sampling": {"": sample}, "training": _training(synth, pairs, train)}
    for job, parts in jobs.items():
        for way, taken in _turns(parts).items():
            found[f"{job}{way}"] = 1000 * taken / BATCH
    return found


def _training(synth: DefectSynthesizer, pairs: PairSet, train: TrainConfig) -> Parts:
    """The steps of one adversarial iteration on networks of their own: "/interval" -> step."""
    policy = defect_policy(synth.preset, synth.backbone_)
    first = synth.branch_.resolutions[0]
    task = build_task(synth.backbone_, pairs, train, policy, synth.preset, first, None)
    index = torch.arange(BATCH, device=task.images.device) % len(task.images)
    batch = Batch(task.images[index], index, task.masks[index])
    return {
        f"{phase.name}/{phase.interval}": partial(_step, task.state, phase, batch)
        for phase in task.phases()
        if phase.last is None
    }


def _turns(parts: Parts) -> dict[str, float]:
    """Seconds of all parts together, as the package runs them and in plain PyTorch."""
    total = {"": 0.0, ", plain": 0.0}
    for name, part in parts.items():
        interval = int(name.partition("/")[2] or 1)
        for way, context in (("", kept_memory), (", plain", _plain)):
            with context():
                part()
                began = time.perf_counter()
                part()
                total[way] += (time.perf_counter() - began) / interval
    return total


@contextmanager
def _plain() -> Iterator[None]:
    with use_kernels("reference"):
        yield

"""How much faster the demo is than plain PyTorch, measured where and when it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

from defectgen.config import TrainConfig, defect_training
from defectgen.data.images import PairSet
from defectgen.defect_fit import build_task, defect_policy
from defectgen.memory import kept_memory
from defectgen.networks.precision import in_precision, resolve_precision
from defectgen.ops import use_kernels
from defectgen.ops._dispatch import mode, native
from defectgen.rng import sample_seeds
from defectgen.sampling import iter_defects
from defectgen.synthesizer import DefectSynthesizer
from defectgen.training.loop import _step
from defectgen.training.phases import Batch, Phase

#: Samples and real images of one measured pass.
BATCH = 16

#: Parts of a job by name; each takes the precision in which it computes.
Parts = dict[str, Callable[[str], object]]


def measure_speed(synth: DefectSynthesizer, pairs: PairSet) -> dict[str, float]:
    """Milliseconds per image as the package runs, and in plain PyTorch in float32.

    Sampling: one batch with masks. Training: one adversarial iteration of the recipe, lazy terms
    spread over their interval. Each way runs once before its clock starts.

    Returns:
        "sampling", "sampling, plain", "training", "training, plain"; "native", which is 1 if
        native kernels were at work; "bf16", which is 1 if the synthesizer computes in it.
    """
    backbone = synth.backbone_
    network, branch = backbone.fitted(), synth.branch_
    device = network.mapping.w_avg.device
    precision = resolve_precision(synth.precision, device)
    train = defect_training(
        network.config, preset=synth.preset, kimg=1.0, batch_size=BATCH, seed=0, warm=False
    )
    seeds = sample_seeds(BATCH, 0)

    def sample(precision: str) -> None:
        parts = iter_defects(
            network,
            branch,
            seeds,
            1.0,
            normals=False,
            batch_size=BATCH,
            precision=precision,
        )
        list(parts)

    found = {
        "native": float(mode() != "reference" and native(device.type)),
        "bf16": float(precision == "bf16"),
    }
    jobs: dict[str, Parts] = {"sampling": {"": sample}, "training": _training(synth, pairs, train)}
    for job, parts in jobs.items():
        for way, taken in _turns(parts, precision).items():
            found[f"{job}{way}"] = 1000 * taken / BATCH
    return found


def _training(synth: DefectSynthesizer, pairs: PairSet, train: TrainConfig) -> Parts:
    """The steps of one adversarial iteration on networks of their own: "/interval" -> step."""
    policy = defect_policy(synth.preset, synth.backbone_)
    first = synth.branch_.resolutions[0]
    task = build_task(synth.backbone_, pairs, train, policy, synth.preset, first, None)
    index = torch.arange(BATCH, device=task.images.device) % len(task.images)
    batch = Batch(task.images[index], index, task.masks[index])

    def step(phase: Phase, precision: str) -> None:
        with in_precision(precision):
            _step(task.state, phase, batch)

    return {
        f"{phase.name}/{phase.interval}": partial(step, phase)
        for phase in task.phases()
        if phase.last is None
    }


def _turns(parts: Parts, precision: str) -> dict[str, float]:
    """Seconds of all parts together, as the package runs them and in plain PyTorch.

    Both keep freed memory, as sampling and training always do.
    """
    total = {"": 0.0, ", plain": 0.0}
    for name, part in parts.items():
        interval = int(name.partition("/")[2] or 1)
        ways = (("", nullcontext(), precision), (", plain", use_kernels("reference"), "fp32"))
        for way, kernels, computed in ways:
            with kernels, kept_memory():
                part(computed)
                began = time.perf_counter()
                part(computed)
                total[way] += (time.perf_counter() - began) / interval
    return total

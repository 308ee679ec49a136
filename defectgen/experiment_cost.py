"""What trainings will cost, from one step of each of their phases."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence

import torch

from defectgen import backbone_fit, defect_fit
from defectgen.augment.policy import AugmentPolicy
from defectgen.augment.symmetry import with_symmetries
from defectgen.backbone import Backbone
from defectgen.config import TrainConfig, backbone_training, defect_training
from defectgen.data.images import ImageSet, PairSet
from defectgen.estimator import resolve_device
from defectgen.memory import kept_memory
from defectgen.networks.precision import in_precision
from defectgen.system import WINDOWS
from defectgen.training.loop import _step
from defectgen.training.phases import Batch, Phase
from defectgen.training.state import TrainState


def backbone_plan(probe: Backbone, kimg: float | None, seed: int) -> TrainConfig:
    """The numbers by which a backbone like this one is trained.

    Args:
        probe: fitted to the same images, however shortly: layout, precision.
        kimg: budget; None takes the default.
        seed: of the run.
    """
    return backbone_training(
        probe.fitted().config,
        preset=None,
        kimg=kimg,
        batch_size=None,
        seed=seed,
        precision=probe.config_["training"]["precision"],
        layout=probe.config_["data"]["layout"],
    )


def branch_plan(backbone: Backbone, kimg: float | None, seed: int) -> TrainConfig:
    """The numbers by which a branch on this backbone is trained."""
    return defect_training(
        backbone.fitted().config,
        preset=None,
        kimg=kimg,
        batch_size=None,
        seed=seed,
        warm=True,
        precision=backbone.config_["training"]["precision"],
    )


def backbone_cost(
    probe: Backbone, goods: ImageSet, kimg: float | None, seed: int
) -> tuple[float, float]:
    """Thousands of images of a backbone's training, and the seconds it will take.

    Args:
        probe: a backbone that a short fit on the same images has made.
        goods: what is learned.
        kimg: budget; None takes the default.
        seed: of the run.
    """
    config, train = probe.fitted().config, backbone_plan(probe, kimg, seed)
    policy = AugmentPolicy.from_dict(probe.config_["augment"]["policy"])
    images = with_symmetries(goods.images, policy)
    task = backbone_fit.build_task(config, train, images, policy, _device(probe))
    index = torch.arange(train.batch_size, device=task.images.device) % len(task.images)
    batch = Batch(task.images[index], index)
    return train.kimg, run_seconds(task.state, task.phases(), batch)


def branch_cost(
    probe: Backbone, pairs: PairSet, kimg: float | None, seed: int
) -> tuple[float, float]:
    """The same of a branch on a backbone such as the probe."""
    train, policy = branch_plan(probe, kimg, seed), defect_fit.defect_policy(None, probe)
    task = defect_fit.build_task(probe, pairs, train, policy, None, None, None)
    index = torch.arange(train.batch_size, device=task.images.device) % len(task.images)
    batch = Batch(task.images[index], index, task.masks[index])
    return train.kimg, run_seconds(task.state, task.phases(), batch)


def run_seconds(state: TrainState, phases: Sequence[Phase], batch: Batch) -> float:
    """Seconds that a run will take: of each phase one step, times the iterations it is due in.

    So lazy terms count once in their interval, and a reconstruction only while it lasts. Each step
    is taken once before its clock starts. Preparations, snapshots and their scores are left out.

    Args:
        state: at the beginning of the run; its networks are changed.
        phases: of the run.
        batch: as every iteration gets.

    Raises:
        TrainingError: a loss is not finite.
    """
    total = 0.0
    # Images are warped at any probability but the 0 at which a run begins.
    state.ada.p = 0.5
    with in_precision(state.config.precision), kept_memory():
        for phase in phases:
            _step(state, phase, batch)
            _wait(batch.images.device)
            began = time.perf_counter()
            _step(state, phase, batch)
            _wait(batch.images.device)
            total += (time.perf_counter() - began) * steps_due(state, phase)
    return total


def steps_due(state: TrainState, phase: Phase) -> int:
    """In how many iterations of the whole run a phase is due."""
    size, images = state.config.batch_size, round(state.config.kimg * 1000)
    return sum(phase.due(shown // size, shown) for shown in range(0, images, size))


def machine(device: str | None) -> str:
    """What will do the work, in words: the speed measured on another one tells nothing."""
    found = resolve_device(device)
    if found.type == "cuda":
        return torch.cuda.get_device_name(found)
    return f"{found.type}, {platform.machine()}, {torch.get_num_threads()} threads"


def peak_gigabytes(device: str | None) -> float | None:
    """The most memory used: of a GPU since `forget_peak`, of a processor by this whole process."""
    found = resolve_device(device)
    if found.type == "cuda":
        return torch.cuda.max_memory_allocated(found) / 1e9
    if WINDOWS:
        return None
    import resource

    # Kilobytes, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def forget_peak(device: str | None) -> None:
    """What a GPU has been asked for so far no longer counts."""
    found = resolve_device(device)
    if found.type == "cuda":
        torch.cuda.reset_peak_memory_stats(found)


def _device(probe: Backbone) -> torch.device:
    return probe.fitted().mapping.w_avg.device


def _wait(device: torch.device) -> None:
    """Until a GPU has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

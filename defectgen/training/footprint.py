"""What a training takes in memory, told before it begins: a killed process says nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from defectgen.config import BackboneConfig, TrainConfig
from defectgen.errors import TrainingWarning
from defectgen.messages import warn
from defectgen.system import memory

#: Peak of one step for each activation of the generator, in numbers of float32: what all losses
#: keep of generator and discriminators, gradients of gradients. Measured on a CPU at 64 to 512 px
#: (docs/performance.md), and more where defects are drawn into given masks.
GAME, IMPOSED = 16, 24
HALF_BITS = 0.65
#: Gradient and two moments for each weight that is trained.
COPIES = 3
FLOAT = 4

#: A training is planned for this share of what is free: an estimate is none to the byte.
SHARE = 0.9
#: How PyTorch says that memory ended where it has no class of its own for that.
_PHRASES = ("allocate memory", "out of memory", "not enough memory", "alloc_failed")
_CGROUP = Path("/sys/fs/cgroup")


def needed(shape: BackboneConfig, train: TrainConfig, per_activation: int, weights: int) -> int:
    """About how many bytes a training takes beyond its images and networks.

    Args:
        shape: of the backbone.
        train: tells batch size and precision.
        per_activation: `GAME`, or `IMPOSED` where a defect is drawn into given masks.
        weights: how many numbers are trained.
    """
    sides = [1 << level for level in range(2, shape.resolution.bit_length())]
    activations = sum(shape.width(side) * side * side for side in sides)
    kept = train.batch_size * activations * per_activation * FLOAT
    half = train.precision == "bf16"
    return round(kept * (HALF_BITS if half else 1)) + COPIES * FLOAT * weights


def free(device: torch.device) -> int | None:
    """Bytes that a training may still take on this device, None where nobody knows."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    known = [some for some in (_free_of_system(), _free_of_container()) if some is not None]
    return min(known) if device.type == "cpu" and known else None


def warn_if_short(
    shape: BackboneConfig,
    train: TrainConfig,
    per_activation: int,
    weights: int,
    device: torch.device,
) -> None:
    """Warn of a training that takes more memory than there is; arguments as in `needed`.

    Warns:
        TrainingWarning: with the largest batch that fits, or a lower resolution.
    """
    found, want = free(device), needed(shape, train, per_activation, weights)
    if found is None or want <= SHARE * found:
        return
    room = round(SHARE * found)
    fixed = COPIES * FLOAT * weights
    fits = max(0, room - fixed) * train.batch_size // (want - fixed)
    advice = f"batch_size={fits}" if fits else "a lower resolution"
    warn(
        f"batch_size: as many images as fit into memory; {train.batch_size} of {shape.resolution} "
        f"px take about {want / 1e9:.1f} GB to train, and {found / 1e9:.1f} GB are free; "
        f"construct with {advice}",
        TrainingWarning,
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether this is what Python, or PyTorch on any device, raises where memory ends."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in _PHRASES)


def _free_of_system() -> int | None:
    """What Linux and Windows call available; elsewhere all the memory there is."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = dict(line.split(":") for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        pass
    known = memory()
    return None if known is None else known[1]


def _free_of_container() -> int | None:
    """What a container may still take: its limit without what it holds, but for cached files."""
    try:
        limit, used = (
            int((_CGROUP / name).read_text(encoding="ascii"))
            for name in ("memory.max", "memory.current")
        )
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        known = dict(line.split() for line in lines)
        cached = int(known["inactive_file"]) + int(known["active_file"])
    except (
        OSError,
        ValueError,
        KeyError,
    ):  # no container, no limit ("max"), or cgroups of version 1
        return None
    return max(0, limit - used + cached)

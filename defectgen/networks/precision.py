"""In which precision the blocks of a network compute; parameters stay float32 whatever it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from defectgen.errors import ConfigError
from defectgen.ops._dispatch import multiplies_bf16

#: What a user may ask for: everything in float32, or features and convolutions in bfloat16 with
#: sums, styles, skip images and logits in float32.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}

#: Of the passes that run in this context: a thread or a task of its own may compute in another.
_working: ContextVar[torch.dtype | None] = ContextVar("defectgen_precision", default=None)
# The last one asked for, and by how many at once: torch.compile reads globals and no context
# variables. Threads that compile at the same time must not disagree.
_latest: torch.dtype | None = None
_users = 0
_mutex = threading.Lock()


class PreciseBlock(nn.Module):
    """A block that computes in the precision of `in_precision`.

    Attributes:
        in_half: compute in float16 on a GPU, as published for the top resolutions, where nothing
            else was asked for.
    """

    in_half: bool = False

    def working(self, like: Tensor) -> torch.dtype:
        """Dtype of this block's features, where latents or images are ``like``."""
        low = _latest if torch.compiler.is_compiling() else _working.get()
        if like.dtype == torch.float64:
            return like.dtype
        if low is not None:
            return low
        return torch.float16 if self.in_half and like.is_cuda else like.dtype


@contextmanager
def in_precision(precision: str) -> Iterator[None]:
    """Let every block that runs inside compute in this precision, a key of `PRECISIONS`."""
    global _latest, _users
    wanted = PRECISIONS[precision]
    with _mutex:
        earlier, _latest = _latest, wanted
        _users += 1
    before = _working.set(wanted)
    try:
        yield
    finally:
        _working.reset(before)
        with _mutex:
            _users -= 1
            _latest = earlier if _users else None


def check_precision(precision: str) -> None:
    """Raise ConfigError unless ``precision`` is a known name or "auto"."""
    names = ("auto", *PRECISIONS)
    if precision not in names:
        raise ConfigError(
            f"precision: one of {', '.join(names)}; got {precision!r}; choose one of these."
        )


def resolve_precision(precision: str, device: torch.device) -> str:
    """What "auto" means on this device; another name stays what it is.

    A fixed table: "bf16" on a CPU that multiplies in bfloat16, else "fp32" (on a GPU too, where
    nothing was measured yet).

    Raises:
        ConfigError: for an unknown name.
    """
    check_precision(precision)
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cpu" and multiplies_bf16() else "fp32"

"""Largest and smallest numbers around each pixel, for planes of single channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Of fewer numbers a single operation costs less than several.
FEW = 4096


@torch.no_grad()
def dilated(x: Tensor, reach: int = 1) -> Tensor:
    """The largest number within so many rows and columns, (N, C, H, W) or (C, H, W) floating.

    What lies outside does not count. As max_pool2d with a window of 2 * reach + 1, which on a CPU
    takes twenty times as long for masks of 64 px. No gradient.
    """
    if x.device.type == "cpu" and x.numel() >= FEW:
        return _swept(x, reach, torch.maximum)
    return F.max_pool2d(x, 2 * reach + 1, stride=1, padding=reach)


@torch.no_grad()
def eroded(x: Tensor, reach: int = 1) -> Tensor:
    """The smallest number, likewise."""
    if x.device.type == "cpu" and x.numel() >= FEW:
        return _swept(x, reach, torch.minimum)
    return -F.max_pool2d(-x, 2 * reach + 1, stride=1, padding=reach)


def _swept(x: Tensor, reach: int, pick: Callable[..., Tensor]) -> Tensor:
    """Rows, then columns, a neighbor on each side at a time."""
    for axis in (-2, -1) * reach:
        y, last = x.clone(), x.shape[axis] - 1
        for to, of in ((1, 0), (0, 1)):
            part = y.narrow(axis, to, last)
            pick(part, x.narrow(axis, of, last), out=part)
        x = y
    return x

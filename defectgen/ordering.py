"""Sorting of many rows, which on two cores numpy does several times as fast as PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sort_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers along the last axis in ascending order, and where each of them was.

    As ``x.sort(dim=-1, stable=True)``, gradient included: equal numbers stay in their order, so the
    result is the same on every processor.

    Args:
        x: (*, n) floating, without NaN.

    Returns:
        Values (*, n) and int64 positions (*, n).
    """
    if not _by_numpy(x):
        found = x.sort(dim=-1, stable=True)
        return found.values, found.indices
    bits = (x.detach() + 0.0).contiguous().view(torch.int32)  # of -0 that makes 0
    # As integers floats of one sign have their own order, and negative ones the opposite one.
    ranks = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    # With their positions no two are equal, and then a sort that is not stable has one result.
    keys = (ranks.to(torch.int64) << 32) | torch.arange(x.shape[-1], device=x.device)
    keys.numpy().sort(axis=-1)
    order = keys & 0xFFFFFFFF
    return x.gather(-1, order), order


def sorted_rows(x: Tensor) -> Tensor:
    """The values of `sort_rows` alone, which without a graph is faster still."""
    if _by_numpy(x) and not (torch.is_grad_enabled() and x.requires_grad):
        return torch.from_numpy(np.sort(x.detach().numpy(), axis=-1))
    return sort_rows(x)[0]


def _by_numpy(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"

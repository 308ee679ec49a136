"""Regions: a defect that covers much of a texture has a grain, as good at any other place in it.

Moved only as a whole, it would be its photo again: it fills most of the picture, and of few places
does a border cut it as its own did. So less of it has to stay in the picture, and its grain is
drawn at another place, below its own shading, as that of good parts is (`networks.grain`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor

from defectgen.augment.policy import AugmentPolicy
from defectgen.morphology import eroded
from defectgen.networks.grain import enlarged, shading
from defectgen.networks.known import REGION

#: A moved region keeps at least this share of its pixels in the picture: how much of it its own
#: photo shows was chance, too.
KEPT = 0.3
#: Its edge keeps its grain: what is moved comes in over so many pixels, as a share of the side.
EDGE = 1 / 20
#: Its grain moves by at most this share of the side.
SHIFT = 0.2


def are_regions(masks: Tensor) -> Tensor:
    """Which masks (N, 1, S, S), 0 or 1 or shares of cells, cover that much: (N,) bool."""
    return masks.mean((1, 2, 3)) > REGION


def draw_grain(sources: Iterable[torch.Generator]) -> Tensor:
    """Uniform numbers (N, 4) for `stirred`, a row of each generator."""
    return torch.cat([torch.rand((1, 4), generator=k, device=k.device) for k in sources])


def stirred(images: Tensor, masks: Tensor, even: Tensor, policy: AugmentPolicy) -> Tensor:
    """Images whose masks show the grain of another place in them, below the same shading.

    Mirrored about the middle of its mask and shifted, as the policy grants; wherever the edge of
    the mask is near, here or there, it stays what it was.

    Args:
        images: (N, C, R, R) in [-1, 1].
        masks: bool (N, 1, R, R).
        even: (N, 4) in [0, 1), whether to mirror, and how far to shift, down and across.
        policy: which moves are allowed.
    """
    side, inside = images.shape[-1], masks.to(images.dtype)
    covered = enlarged(shading(inside), side).clamp_min(1e-3)
    shade = enlarged(shading(images * inside), side) / covered
    grain, depth = (images - shade) * inside, _depth(inside)
    shifts = ((even[:, 2:] * 2 - 1) * (SHIFT * side)).round().long()
    if not (policy.translate_int or policy.translate_frac):
        shifts = torch.zeros_like(shifts)
    mirrored = (even[:, :2] < 0.5) & torch.tensor(
        [policy.flip_y, policy.flip_x], device=even.device
    )
    (rows, known), (columns, also) = (
        _taken(masks.any(axis)[:, 0], mirrored[:, k], shifts[:, k]) for k, axis in ((0, 3), (1, 2))
    )
    both = torch.cat([grain, depth], 1)
    row = torch.arange(len(images), device=images.device)[:, None, None]
    found = rearrange(both[row, :, rows[:, :, None], columns[:, None, :]], "n h w c -> n c h w")
    there = found[:, -1:] * (known[:, None, :, None] & also[:, None, None, :])
    weight = torch.minimum(depth, there)
    moved = grain + weight * (found[:, :-1] - grain)
    return torch.where(masks, (moved + shade).clamp(-1.0, 1.0), images)


def _depth(inside: Tensor) -> Tensor:
    """From 0 at the edge of masks (N, 1, R, R) to 1 deep in them; a border is no edge."""
    steps = max(1, round(EDGE * inside.shape[-1]))
    total, left = torch.zeros_like(inside), inside
    for _ in range(steps):
        left = eroded(left)
        total = total + left
    return total / steps


def _taken(used: Tensor, mirrored: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Which row (or column) each takes its grain from, (N, R), and whether there is such a one.

    Args:
        used: (N, R) bool, rows that the mask reaches: mirrored about their middle.
        mirrored: (N,) bool.
        shifts: (N,) integers.
    """
    side = used.shape[1]
    steps = torch.arange(side, device=used.device).expand_as(used)
    first = used.int().argmax(1, keepdim=True)
    last = side - 1 - used.flip(1).int().argmax(1, keepdim=True)
    steps = steps - shifts[:, None]
    taken = torch.where(mirrored[:, None], first + last - steps, steps)
    return taken.clamp(0, side - 1), (taken >= 0) & (taken < side)

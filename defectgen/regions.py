"""Regions: a defect that covers much of a texture has a grain, as good at any other place in it.

Moved only as a whole, it would be its photo again: it fills most of the picture, and of few places
does a border cut it as its own did. So less of it has to stay in the picture, and its grain is
drawn at another place, below its own shading, as that of good parts is (`networks.grain`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from defectgen.augment.policy import AugmentPolicy
from defectgen.morphology import eroded
from defectgen.networks.grain import enlarged, shading

#: A moved region keeps at least this share of its pixels in the picture: how much of it its own
#: photo shows was chance, too.
KEPT = 0.3
#: So far from its edge, as a share of the side, it keeps its grain; what is moved comes in over the
#: last so many pixels of that, for where two grains are mixed both are faint.
EDGE, FADE = 1 / 16, 3
#: Where lines that go one way have more than this share of its variance, it moves along them alone.
LINES = 0.2
#: Its grain moves by at most this share of the side.
SHIFT = 0.2


def draw_grain(sources: Iterable[torch.Generator]) -> Tensor:
    """Uniform numbers (N, 4) for `stirred`, a row drawn from each of N generators in turn."""
    return torch.cat([torch.rand((1, 4), generator=k, device=k.device) for k in sources])


def stirred(image: Tensor, mask: Tensor, even: Tensor, policy: AugmentPolicy) -> Tensor:
    """A picture whose mask shows the grain of another place in it, below the same shading.

    Mirrored about the middle of what the mask extends over, then shifted, as the policy grants;
    what would come from beyond comes mirrored. Wherever the edge of the mask is near, here or
    there, it stays what it was. One picture, so that those beside it decide nothing.

    Args:
        image: (C, R, R) in [-1, 1].
        mask: bool (1, R, R), not empty.
        even: (4,) in [0, 1): whether to mirror top and bottom, left and right (below 0.5), and how
            far to shift down and across.
        policy: which moves are allowed.

    Returns:
        (C, R, R) in [-1, 1]; outside the mask as it was.
    """
    side, inside = image.shape[-1], mask.to(image.dtype)
    shade = _shade(image, inside)
    grain = (image - shade) * inside
    shifted = policy.translate_int or policy.translate_frac
    moves, taken = False, []
    for k, flipped in enumerate((policy.flip_y, policy.flip_x)):
        # Along lines alone: across them those of the edge would break off.
        free = _lines(grain, inside, 2 - k) <= LINES
        mirrored = free and flipped and bool(even[k] < 0.5)
        shift = round(float(even[2 + k] * 2 - 1) * SHIFT * side) if free and shifted else 0
        moves |= mirrored or shift != 0
        taken.append(_taken(mask[0].any(1 - k), mirrored, shift))
    if not moves:
        return image
    both = torch.cat([grain, _depth(inside)])
    found = both[:, taken[0]][:, :, taken[1]]
    weight = torch.minimum(both[-1:], found[-1:])
    moved = grain + weight * (found[:-1] - grain)
    return torch.where(mask, (moved + shade).clamp(-1.0, 1.0), image)


def _shade(image: Tensor, inside: Tensor) -> Tensor:
    """What of a picture (C, R, R) is no grain inside a mask (1, R, R), 0 or 1: (C, R, R).

    A plane, and of the rest the shading: alone, where it ends, that would be too flat, and a slope
    in the light would be mirrored with the grain.
    """
    side = image.shape[-1]
    axis = torch.linspace(-1, 1, side, device=image.device, dtype=image.dtype)
    ones = torch.ones_like(inside[0])
    basis = torch.stack([ones, axis[:, None] * ones, axis * ones])  # (3, R, R)
    # By sums and not by products of matrices, which may be computed in half precision.
    normal = (inside * basis[:, None] * basis).sum((2, 3))  # (3, 3)
    found = (inside * image[:, None] * basis).sum((2, 3))  # (C, 3)
    factors = torch.linalg.solve(normal + 1e-3 * torch.eye(3).to(normal), found.T)
    plane = (factors.T[:, :, None, None] * basis).sum(1)
    covered = enlarged(shading(inside[None]), side)[0].clamp_min(1e-3)
    rest = enlarged(shading(((image - plane) * inside)[None]), side)[0]
    shade: Tensor = plane + rest / covered
    return shade


def _lines(grain: Tensor, inside: Tensor, axis: int) -> float:
    """Share of the variance of a grain (C, R, R) that its means along an axis have."""
    count = inside.sum(axis).clamp_min(1)
    explained = (grain.sum(axis).square() / count).sum()
    return float(explained / grain.square().sum().clamp_min(1e-12))


def _depth(inside: Tensor) -> Tensor:
    """From 0 near the edge of a mask (1, R, R) to 1 deep in it; a border is no edge."""
    steps = max(FADE, round(EDGE * inside.shape[-1]))
    left = eroded(inside, steps - FADE)
    total = torch.zeros_like(inside)
    for _ in range(FADE):
        left = eroded(left)
        total = total + left
    return total / FADE


def _taken(used: Tensor, mirrored: bool, shift: int) -> Tensor:
    """Which row (or column) each takes its grain from, (R,); ``used``, (R,) bool: of the mask."""
    first, last = used.nonzero()[[0, -1], 0].tolist()
    count = last - first + 1
    steps = torch.arange(len(used), device=used.device) - first - shift
    steps = (count - 1 - steps if mirrored else steps) % (2 * count)
    found: Tensor = first + torch.minimum(steps, 2 * count - 1 - steps)
    return found

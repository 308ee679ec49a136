"""Which changes leave a good part a good part: measured on the good images themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.augment.policy import POLICIES, AugmentPolicy

#: A change is granted where changed images lie at most this much farther from the others than the
#: others lie from each other.
THRESHOLD = 1.15
#: Colors are judged more strictly: a wrong one shows in every pixel.
COLOR_THRESHOLD = 1.05
#: Mean distance from grey, in [-1, 1] units, below which there is no color to measure.
LEAST_CHROMA = 0.01
#: Below this number of images nothing beyond "safe" is granted: there is nothing to measure with.
FEWEST = 8
#: More images than this do not make the measurement better, only slower.
MOST = 256
SIDE = 16


def measure_policy(images: Tensor) -> tuple[AugmentPolicy, str]:
    """Decide from the good images which flips, turns and color changes occur among them.

    Each image is shrunk to 16 px. For a change T, the median over images i of the distance from
    T(x_i) to the nearest other image is divided by the median distance from x_i to the nearest
    other image. A product that never lies turned is far from all others once it is turned; one
    that lies anyhow, or looks alike from all sides, is as near as before. Granted below 1.15, for
    colors 1.05.
    Shapes are compared without the mean color of each image, colors with it.

    Args:
        images: (N, C, R, R) uint8.

    Returns:
        The policy, "safe" plus what is granted, and one sentence with the measured ratios.
    """
    base = POLICIES["safe"]
    if len(images) < FEWEST:
        return base, f"safe: {len(images)} images are too few to measure (at least {FEWEST})."
    step = max(1, len(images) // MOST)
    x = F.adaptive_avg_pool2d(images[::step].float() / 127.5 - 1, SIDE)
    inside = _disk(SIDE)
    shapes = x - x.mean(dim=(2, 3), keepdim=True)
    ratios = {
        "flip_x": _ratio(shapes, lambda y: y.flip(3)),
        "flip_y": _ratio(shapes, lambda y: y.flip(2)),
        "rot90": max(
            _ratio(shapes, lambda y: y.rot90(1, (2, 3))),
            _ratio(shapes, lambda y: y.rot90(2, (2, 3))),
        ),
        # Free turns are compared inside the inscribed disk, the only part that keeps its place.
        "rotate": max(
            _ratio(shapes * inside, lambda y: _turn(y, 0.5) * inside),
            _ratio(shapes * inside, lambda y: _turn(y, 1.1) * inside),
        ),
        "luma_flip": _ratio(x, lambda y: -y),
    }
    if x.shape[1] == 3 and float((x - x.mean(dim=1, keepdim=True)).abs().mean()) > LEAST_CHROMA:
        ratios["hue"] = _ratio(x, lambda y: _turn_hue(y, 1.0))
        ratios["saturation"] = _ratio(x, lambda y: _fade(y, 0.5))
    limits = dict.fromkeys(("hue", "saturation", "luma_flip"), COLOR_THRESHOLD)
    granted = {name: ratio < limits.get(name, THRESHOLD) for name, ratio in ratios.items()}
    # A product that may lie at any angle may also lie at right angles.
    granted["rotate"] = granted["rotate"] and granted["rot90"]
    names = [name for name, good in granted.items() if good]
    measured = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    text = (
        f"safe plus {', '.join(names) or 'nothing'}; measured ratios (granted below {THRESHOLD}, "
        f"colors {COLOR_THRESHOLD}): {measured}."
    )
    return replace(base, **granted), text


def _ratio(x: Tensor, change: Callable[[Tensor], Tensor]) -> float:
    """Median nearest distance of changed images over that of unchanged ones."""
    flat = x.flatten(1)
    own = torch.eye(len(x), dtype=torch.bool)
    between = torch.cdist(flat, flat).masked_fill(own, float("inf")).min(dim=1).values
    changed = torch.cdist(change(x).flatten(1), flat).masked_fill(own, float("inf"))
    reference = float(between.median().clamp_min(1e-6))
    return float(changed.min(dim=1).values.median()) / reference


def _turn(x: Tensor, angle: float) -> Tensor:
    """Rotate about the center, bilinear."""
    c, s = float(torch.cos(torch.tensor(angle))), float(torch.sin(torch.tensor(angle)))
    matrix = torch.tensor([[c, -s, 0.0], [s, c, 0.0]]).expand(len(x), 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _disk(side: int) -> Tensor:
    """1 inside the inscribed circle, (1, 1, side, side)."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    return (line[:, None].square() + line[None].square() < 0.9).float()[None, None]


def _fade(x: Tensor, factor: float) -> Tensor:
    """Scale the chroma, the distance of each pixel from its own grey."""
    grey = x.mean(dim=1, keepdim=True)
    return grey + (x - grey) * factor


def _turn_hue(x: Tensor, angle: float) -> Tensor:
    """Rotate RGB vectors about the grey axis (Rodrigues' formula)."""
    axis = torch.full((3,), 3**-0.5)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) * 3**-0.5
    s, c = torch.sin(torch.tensor(angle)), torch.cos(torch.tensor(angle))
    matrix = c * torch.eye(3) + s * cross + (1 - c) * torch.outer(axis, axis)
    return torch.einsum("ij,njhw->nihw", matrix, x)

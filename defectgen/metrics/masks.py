"""Statistics of boolean masks: area, components, aspect, border contact, position.

Letters: N masks of H x W pixels; R runs, the horizontal strips of mask pixels in one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.errors import ConfigError

#: Rows and columns of cells of the position map.
CELLS = 8
#: Pixels whose runs are in memory at once.
PIXELS = 2**22


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskStatistics:
    """What `mask_statistics` found; row i of every tensor of N speaks of mask i, on the CPU.

    Attributes:
        area: (N,) float32 in [0, 1], share of the pixels that the mask covers.
        components: (N,) int64, number of 8-connected components; 0 for an empty mask.
        aspect: (N,) float32 of at least 1, long through short principal axis of the largest
            component; NaN for an empty mask.
        border: (N,) float32 in [0, 1], share of the mask's pixels on the outermost ring of the
            image; NaN for an empty mask.
        contact: (N,) bool, some pixel lies on that ring.
        empty: (N,) bool, the mask has no pixel.
        full: (N,) bool, the mask covers every pixel.
        position: (8, 8) float32, mean mask in 8 x 8 cells, scaled to sum 1; zeros if all are empty.
    """

    area: Tensor  # (N,)
    components: Tensor  # (N,)
    aspect: Tensor  # (N,)
    border: Tensor  # (N,)
    contact: Tensor  # (N,)
    empty: Tensor  # (N,)
    full: Tensor  # (N,)
    position: Tensor  # (8, 8)


def mask_statistics(masks: Tensor) -> MaskStatistics:
    """Measure each mask; the largest component is the first by rows where several are as large.

    The aspect is the root of the ratio of the eigenvalues of the covariance of the component's
    area, pixels being unit squares: a square or a single pixel has 1, a rectangle of a x b pixels
    max(a, b) / min(a, b), a line of k pixels k.

    Args:
        masks: (N, 1, H, W) bool, N at least 1.

    Raises:
        ConfigError: the masks are anything else.
    """
    check_masks("masks", masks)
    flat = masks[:, 0].cpu()
    height, width = flat.shape[1:]
    ring = torch.ones(height, width, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    pixels, outer = flat.sum((1, 2)), (flat & ring).sum((1, 2))
    parts = torch.split(flat, max(1, PIXELS // (height * width)))
    components, aspect = (torch.cat(found) for found in zip(*map(_shapes, parts), strict=True))
    position = F.adaptive_avg_pool2d(flat.float().mean(0)[None], CELLS)[0]
    return MaskStatistics(
        area=pixels / (height * width),
        components=components,
        aspect=aspect,
        border=outer / pixels,
        contact=outer > 0,
        empty=pixels == 0,
        full=pixels == height * width,
        position=position / position.sum().clamp_min(1e-12),
    )


def compare_masks(real: Tensor, generated: Tensor) -> dict[str, float]:
    """Compare the statistics of two sets of masks.

    - ``area_real``, ``area_generated``: mean area as a share of the image, empty masks included.
    - ``area_ratio``: the second through the first.
    - ``empty_masks``, ``full_masks``: share of generated masks without any, with every pixel.
    - ``components_*``: mean number of 8-connected components of masks that are not empty.
    - ``aspect_*``: geometric mean of their aspect, see `mask_statistics`.
    - ``border_*``: mean share of their pixels on the outermost ring of the image.
    - ``contact_*``: share of them with any pixel there.
    - ``position_overlap``: sum over 8 x 8 cells of the smaller value of the two position maps, from
      0 (never at the same place) to 1 (everywhere equally often). It falls with fewer masks: two
      halves of the real ones say what can be reached.

    Args:
        real: (N, 1, H, W) bool, N at least 1.
        generated: (M, 1, H, W) bool, M at least 1.

    Returns:
        Finite numbers by name; what a set cannot give because all of its masks are empty is left
        out, except that nothing overlaps with no position: 0.

    Raises:
        ConfigError: the masks are anything else, or of two sizes.
    """
    check_masks("real", real)
    check_masks("generated", generated)
    if real.shape[2:] != generated.shape[2:]:
        raise ConfigError(
            "real, generated: must be masks of one size; got "
            f"{tuple(real.shape[2:])} and {tuple(generated.shape[2:])}; resize one set"
        )
    sides = {"real": mask_statistics(real), "generated": mask_statistics(generated)}
    drawn, area = sides["generated"], {k: float(s.area.mean()) for k, s in sides.items()}
    scores = {f"area_{name}": value for name, value in area.items()}
    scores["area_ratio"] = area["generated"] / area["real"] if area["real"] else math.nan
    scores["empty_masks"] = float(drawn.empty.float().mean())
    scores["full_masks"] = float(drawn.full.float().mean())
    for name, side in sides.items():
        there = ~side.empty
        scores[f"components_{name}"] = float(side.components[there].float().mean())
        scores[f"aspect_{name}"] = float(side.aspect[there].log().mean().exp())
        scores[f"border_{name}"] = float(side.border[there].mean())
        scores[f"contact_{name}"] = float(side.contact[there].float().mean())
    overlap = torch.minimum(sides["real"].position, drawn.position)
    scores["position_overlap"] = float(overlap.sum())
    # A mean over no mask is NaN.
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def check_masks(name: str, masks: Tensor) -> None:
    """Check masks (N, 1, H, W): bool, N at least 1.

    Raises:
        ConfigError: anything else.
    """
    rule = "must be one or more bool masks (N, 1, H, W)"
    if not isinstance(masks, Tensor):
        raise ConfigError(f"{name}: {rule}; got {type(masks).__name__}; pass one tensor")
    shape = tuple(masks.shape)
    if masks.ndim != 4 or shape[1] != 1 or min(shape) < 1:
        raise ConfigError(f"{name}: {rule}; got {shape}; reshape them")
    if masks.dtype != torch.bool:
        raise ConfigError(f"{name}: {rule}; got {masks.dtype}; compare them with their threshold")


# -- connected components --------------------------------------------------------------------------


class _Runs(NamedTuple):
    """Horizontal strips of mask pixels, ordered by mask, row and column."""

    mask: Tensor  # (R,) int64: which of the N it belongs to
    row: Tensor  # (R,) int64
    column: Tensor  # (R,) int64, of the first pixel
    length: Tensor  # (R,) int64
    component: Tensor  # (R,) int64, counted over all masks, in the order of their first pixels


def _shapes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Number of components, and aspect of the largest one, (N,) each, of masks (N, H, W)."""
    runs = _runs(masks)
    count = int(runs.component.max()) + 1 if len(runs.component) else 0
    owner = torch.zeros(count, dtype=torch.int64).scatter_(0, runs.component, runs.mask)
    components = torch.bincount(owner, minlength=len(masks))
    aspects, sizes = _aspects(runs, count)
    largest = torch.zeros(len(masks), dtype=sizes.dtype).scatter_reduce_(0, owner, sizes, "amax")
    best = (sizes == largest[owner]).nonzero()[:, 0]
    first = torch.full((len(masks),), count).scatter_reduce_(0, owner[best], best, "amin")
    # An empty mask has the component behind the last one.
    return components, torch.cat([aspects, aspects.new_tensor([math.nan])])[first].float()


def _aspects(runs: _Runs, count: int) -> tuple[Tensor, Tensor]:
    """Aspect and number of pixels of each component, (count,) float64."""
    x, y, n = (part.double() for part in (runs.column, runs.row, runs.length))
    steps = n * (n - 1) / 2  # 0 + 1 + ... + (n - 1)
    sum_x = n * x + steps
    sum_xx = n * x * x + 2 * x * steps + steps * (2 * n - 1) / 3
    moments = torch.stack([n, sum_x, n * y, sum_xx, n * y * y, y * sum_x])
    size, *rest = torch.zeros(6, count).double().index_add_(1, runs.component, moments)
    mean_x, mean_y, xx, yy, xy = (value / size for value in rest)
    # A unit square has the variance 1/12 along each axis.
    var_x, var_y = xx - mean_x.square() + 1 / 12, yy - mean_y.square() + 1 / 12
    middle = (var_x + var_y) / 2
    spread = torch.hypot((var_x - var_y) / 2, xy - mean_x * mean_y)
    return ((middle + spread) / (middle - spread)).sqrt(), size


def _runs(masks: Tensor) -> _Runs:
    """Find runs, then join those that touch in neighboring rows, corners included."""
    _, height, width = masks.shape
    first, last = masks.clone(), masks.clone()
    first[..., 1:] &= ~masks[..., :-1]
    last[..., :-1] &= ~masks[..., 1:]
    begin, end = (where.flatten().nonzero()[:, 0] for where in (first, last))
    upper, lower = (torch.searchsorted(begin, at, right=True) - 1 for at in _touching(masks))
    return _Runs(
        mask=begin // (height * width),
        row=begin // width % height,
        column=begin % width,
        length=end - begin + 1,
        component=_joined(len(begin), upper, lower),
    )


def _touching(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions of pixel pairs, one pair at least for every two runs that touch."""
    _, height, width = masks.shape
    up, down = masks[:, :-1], masks[:, 1:]
    below = up & down
    below[..., 1:] &= ~(up & down)[..., :-1]  # the first column of an overlap is enough
    # Diagonal pairs count only where no vertical pair joins the same runs.
    right = up[..., :-1] & down[..., 1:] & ~up[..., 1:] & ~down[..., :-1]
    left = up[..., 1:] & down[..., :-1] & ~up[..., :-1] & ~down[..., 1:]
    uppers, lowers = [], []
    for pairs, upper_shift, lower_shift in ((below, 0, 0), (right, 0, 1), (left, 1, 0)):
        mask, row, column = pairs.nonzero().unbind(1)
        at = (mask * height + row) * width + column
        uppers.append(at + upper_shift)
        lowers.append(at + width + lower_shift)
    return torch.cat(uppers), torch.cat(lowers)


def _joined(count: int, a: Tensor, b: Tensor) -> Tensor:
    """Number the connected components of a graph of `count` nodes with the edges (a[i], b[i]).

    Roots hook onto the smallest root beside them, then every node looks up its root, until no edge
    joins two roots (Shiloach and Vishkin 1982): some rounds whatever the shapes.
    """
    root = torch.arange(count)
    while True:
        pair = torch.stack([root[a], root[b]])
        apart = pair[0] != pair[1]
        if not bool(apart.any()):
            break
        a, b, pair = a[apart], b[apart], pair[:, apart]
        root.scatter_reduce_(0, pair.amax(0), pair.amin(0), "amin")
        while not torch.equal(root[root], root):
            root = root[root]
    return ((root == torch.arange(count)).cumsum(0) - 1)[root]

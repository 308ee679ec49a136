"""Does a set of images look the same after a transformation? A ratio of neighbor distances.

Legend: N images, C channels, S side in pixels, B direction bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_IMAGES = 96
MAX_SIDE = 128
NEIGHBOR = 0.1  # the neighbor looked at, as a share of the set: beyond groups of near-copies
LAYOUT_SIDE = 16
DIRECTIONS = 24
PATTERNS = 24
_FLOOR = 1e-6  # far below one grey level: two sets of exact copies are alike


class Likeness:
    """A set of images, described so that transformed versions can be compared with it.

    Three descriptors, each blind where another sees: the layout (coarse picture without its mean
    brightness), the patterns (strength of fixed random 5 x 5 filters, wherever they answer) and the
    directions of the edges. A fourth, the tones (luma quantiles), is compared on demand.

    Args:
        images: (N, C, S, S) uint8; N at least 2, C 1 or 3. At most 96, evenly spaced, are used.
    """

    def __init__(self, images: Tensor) -> None:
        chosen = torch.linspace(0, len(images) - 1, min(len(images), MAX_IMAGES)).round().long()
        side = min(images.shape[-1], MAX_SIDE)
        work = F.adaptive_avg_pool2d(images[chosen].float() / 255, side)
        # Blurred, so that the interpolation of a turned image leaves no trace of its own.
        self.images = _blur(work)
        reach = (torch.arange(side) - (side - 1) / 2) / (side / 2)
        self._disc = (reach.square() + reach.square().view(-1, 1) < 0.9).float()
        self._whole = torch.ones(side, side)
        self._filters = _random_filters()
        self._known: dict[bool, list[Tensor]] = {}

    def ratio(
        self,
        transform: Callable[[Tensor], Tensor],
        *,
        disc: bool = False,
        tones: bool = False,
    ) -> float:
        """Compare the transformed images with the originals, relative to their own variety.

        For each image the distance to its k-th nearest other original is taken, k being a tenth of
        the set, once before and once after the transformation; the image itself never counts as a
        neighbor. The ratio of the two medians is near 1 if the set is invariant.

        Args:
            transform: Maps (N, C, S, S) in [0, 1] to the same shape.
            disc: Look only at a disc around the center, for rotations.
            tones: Compare the brightness too, for transformations that change it.

        Returns:
            The largest ratio over the descriptors.
        """
        if disc not in self._known:
            self._known[disc] = self._describe(self.images, disc)
        pairs = zip(self._known[disc], self._describe(transform(self.images), disc), strict=True)
        ratios = [_distance_ratio(before, after) for before, after in pairs]
        return max(ratios if tones else ratios[:-1])

    def hue_spread(self) -> float:
        """1 - |mean direction| of the images' mean chroma: 0 one hue or none, 1 all hues."""
        if self.images.shape[1] == 1:
            return 0.0
        chroma = _chroma(self.images).mean(dim=(2, 3))  # (N, 2)
        length = chroma.norm(dim=1, keepdim=True)
        colored = length.squeeze(1) > 0.02  # five grey levels: below, the hue is noise
        if colored.float().mean() < 0.5:
            return 0.0
        direction = (chroma / length.clamp_min(_FLOOR))[colored]
        return 1.0 - float(direction.mean(dim=0).norm())

    def _describe(self, images: Tensor, disc: bool) -> list[Tensor]:
        """Layout, patterns, directions and tones, each (N, something)."""
        mask = self._disc if disc else self._whole
        luma = images.mean(dim=1, keepdim=True)
        # Pooled first, colors split after: the same by linearity, and far less work.
        coarse = F.adaptive_avg_pool2d(images * mask, LAYOUT_SIDE)
        gray = coarse.mean(dim=1, keepdim=True)
        covered = F.adaptive_avg_pool2d(mask[None, None], LAYOUT_SIDE)
        planes = [gray - covered * (gray.mean(dim=(2, 3), keepdim=True) / covered.mean())]
        if images.shape[1] == 3:
            planes.append(_chroma(coarse))
        layout = torch.cat(planes, dim=1)
        share = torch.linspace(0.05, 0.95, 10)
        tones = F.adaptive_avg_pool2d(luma, 2 * LAYOUT_SIDE).flatten(1).quantile(share, dim=1).T
        patterns, directions = [], []
        level, inside = luma, mask[None, None]
        for _ in range(3):
            if level.shape[-1] <= 64:  # finer ones cost most and add little to the directions
                patterns.append(self._pattern_strength(level, inside[..., 2:-2, 2:-2]))
            if level.shape[-1] >= 32:
                directions.append(_edge_directions(level, inside[..., 1:-1, 1:-1]))
            level, inside = F.avg_pool2d(level, 2), (F.avg_pool2d(inside, 2) > 0.99).float()
        return [layout.flatten(1), torch.cat(patterns, 1), torch.cat(directions, 1), tones]

    def _pattern_strength(self, level: Tensor, inside: Tensor) -> Tensor:
        """Root mean square of the positive filter answers, (N, PATTERNS)."""
        # One sign only: the set of both signs could not tell light from the left and the right.
        answer = F.conv2d(level, self._filters).relu().square()
        return ((answer * inside).sum(dim=(2, 3)) / inside.sum()).sqrt()


def _random_filters() -> Tensor:
    filters = torch.randn(PATTERNS, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    filters -= filters.mean(dim=(2, 3), keepdim=True)
    return filters / filters.square().sum(dim=(2, 3), keepdim=True).sqrt()


def _chroma(images: Tensor) -> Tensor:
    """The two coordinates of RGB that are orthogonal to luma, (N, 2, S, S)."""
    red, green, blue = images.unbind(1)
    return torch.stack([(red - green) / math.sqrt(2), (red + green - 2 * blue) / math.sqrt(6)], 1)


def _blur(images: Tensor) -> Tensor:
    channels = images.shape[1]
    row = (torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16).view(1, 1, 1, 5).expand(channels, 1, 1, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(F.conv2d(padded, row, groups=channels), row.mT, groups=channels)


def _edge_directions(level: Tensor, inside: Tensor) -> Tensor:
    """Histogram (N, B) of the gradient direction, weighted by its length, with sum 1."""
    across = level[:, :, 1:-1, 2:] - level[:, :, 1:-1, :-2]
    down = level[:, :, 2:, 1:-1] - level[:, :, :-2, 1:-1]
    weight = (torch.hypot(across, down) * inside).flatten(1)
    # From -B/2 to B/2; a weight is shared by the bins on both sides of its direction.
    position = torch.atan2(down, across).flatten(1) * (DIRECTIONS / (2 * math.pi))
    lower = position.floor()
    upper_weight = weight * (position - lower)
    bins = lower.long() + DIRECTIONS // 2
    wide = torch.zeros(len(level), DIRECTIONS + 2)
    wide.scatter_add_(1, bins, weight - upper_weight)
    wide.scatter_add_(1, bins + 1, upper_weight)
    histogram = wide[:, :DIRECTIONS].clone()
    histogram[:, :2] += wide[:, DIRECTIONS:]  # the circle closes
    return histogram / histogram.sum(dim=1, keepdim=True).clamp_min(_FLOOR)


def _distance_ratio(before: Tensor, after: Tensor) -> float:
    k = max(1, math.ceil(NEIGHBOR * (len(before) - 1)))

    def median_distance(queries: Tensor) -> float:
        # Not by matrix product: it would drown small distances in rounding.
        table = torch.cdist(queries, before, compute_mode="donot_use_mm_for_euclid_dist")
        table.fill_diagonal_(math.inf)
        return float(table.kthvalue(k, dim=1).values.median())

    return (median_distance(after) + _FLOOR) / (median_distance(before) + _FLOOR)

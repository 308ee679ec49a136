"""Pixel average precision, and the interval of a difference of two by resampling.

Legend: n pictures of the test, H, W pixels, D draws, L levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from defectgen.errors import ConfigError

#: Resamples, and the share of them inside the interval.
DRAWS, LEVEL = 1000, 0.9
LEVELS = 1024  # thresholds of the bootstrap
#: 95th percentiles of Student's t with 1, 2, ... degrees of freedom; of the normal distribution.
STUDENT = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
NORMAL = 1.645


def interval(draws: Tensor, level: float = LEVEL) -> tuple[float, float, float]:
    """Value on the data as they are, and the ends of the percentile interval of the resamples."""
    values = draws.double()
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(values[1:], ends).tolist()
    return float(values[0]), low, high


def pixel_ap(scores: Tensor, masks: Tensor) -> float:
    """Average precision: sum over distinct thresholds of (R_k - R_(k-1)) P_k, in [0, 1].

    Pixels of equal score pass a threshold together. No interpolation, as in scikit-learn. Scores
    have any shape, masks the same one, bool, some of it True; else ConfigError.
    """
    counts = histograms(scores.reshape(1, -1), masks.reshape(1, -1), levels=masks.numel())
    return float(area_of(counts[:, 0]))


def area_of(counts: Tensor) -> Tensor:
    """AP (...) from the positives and pixels at falling levels, (2, ..., L)."""
    sums = counts.cumsum(-1)
    hits, above = sums[0], sums[1]
    return (counts[0] * hits / above.clamp(min=1)).sum(-1) / hits[..., -1].clamp(min=1)


def histograms(scores: Tensor, masks: Tensor, levels: int = LEVELS) -> Tensor:
    """Per picture, how many positives and pixels lie at each level of score.

    Recall changes at scores of positives only, so these are the thresholds: all of them, and then
    the AP is exact, or `levels` of them, each the lowest of an equal share of the positives; the AP
    then moves by about 1 / levels times the ups and downs of the precision: less than 0.01.

    Args:
        scores: (n, ...) finite.
        masks: (n, ...) bool, some of it True.
        levels: L at most; fewer where scores are equal.

    Returns:
        (2, n, L) float64, from the highest level down; pixels below all positives are in none.
    """
    odd = int((~scores.isfinite()).sum())
    if scores.shape != masks.shape or odd:
        raise ConfigError(
            f"scores: finite, shape {tuple(masks.shape)} of the masks; got {odd} not finite, shape "
            f"{tuple(scores.shape)}; pass one probability per pixel, of a sound network"
        )
    if not masks.any():
        raise ConfigError("masks: some defect must be marked; got none; pass defects for the test")
    ranked = scores[masks].sort().values
    edges = torch.unique(ranked)
    if len(edges) > levels:
        edges = torch.unique(ranked[torch.arange(levels) * len(ranked) // levels])
    places = torch.bucketize(scores.flatten(1), edges, right=True)  # (n, HW), 0 below all edges
    found = torch.zeros(2, len(scores), len(edges) + 1, dtype=torch.float64)
    found[0].scatter_add_(1, places, masks.flatten(1).double())
    found[1].scatter_add_(1, places, torch.ones_like(places, dtype=torch.float64))
    return found[:, :, 1:].flip(2)


def gains(
    first: list[Tensor],
    second: list[Tensor],
    masks: Tensor,
    groups: Tensor,
    draws: int = DRAWS,
    seed: int = 0,
) -> Tensor:
    """How much better the first arm is, by the AP averaged over training seeds: draws, (D + 1,).

    Paired: each draw takes the same pictures and the same training seeds of both arms. What the
    few seeds vary by is enlarged (`spread_of`), or equal arms would differ in four of ten tests.

    Args:
        first: probabilities (n, 1, H, W), one tensor per training seed.
        second: the same of the other arm, from the same seeds.
        masks: where the defects are, (n, 1, H, W) bool.
        groups: (n,) numbers; the pictures of one are resampled among each other.
        draws: D.
        seed: of the draws.

    Returns:
        Mean difference of the data as they are, then of each resample.
    """
    generator = torch.Generator().manual_seed(seed)
    times = torch.zeros(draws, len(masks), dtype=torch.float64)  # how often each picture is taken
    for group in torch.unique(groups):
        members = (groups == group).nonzero().flatten()
        taken = torch.randint(len(members), (draws, len(members)), generator=generator)
        times.scatter_add_(1, members[taken], torch.ones_like(taken, dtype=torch.float64))
    seeds = torch.randint(len(first), (draws, len(first)), generator=generator)
    pairs = list(zip(first, second, strict=True))
    areas = [[area_of(times @ histograms(some, masks)) for some in pair] for pair in pairs]
    each = torch.stack([a - b for a, b in areas], 1)  # (D, seeds)
    middle = each.mean(1)
    drawn = middle + spread_of(len(first)) * (each.gather(1, seeds).mean(1) - middle)  # (D,)
    exact = [pixel_ap(a, masks) - pixel_ap(b, masks) for a, b in pairs]
    return torch.cat([drawn.new_tensor([sum(exact) / len(exact)]), drawn])


def spread_of(seeds: int) -> float:
    """By how much resamples of so many values vary too little for a 90 % interval of their mean.

    The variance of resamples is (R - 1) / R of the right one, and of few values not even that is
    known: t instead of normal percentiles.
    """
    if seeds < 2:
        return 1.0
    tail = STUDENT[seeds - 2] if seeds - 2 < len(STUDENT) else NORMAL
    return math.sqrt(seeds / (seeds - 1)) * tail / NORMAL

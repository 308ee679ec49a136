"""Is one kernel distance smaller than another? A bootstrap of their difference.

Letters: n real images, m fakes, D features, S training seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Resamples, and the share of them inside the interval.
DRAWS, LEVEL = 1000, 0.9


def kid_difference(
    real: Tensor,
    first: list[Tensor],
    second: list[Tensor],
    *,
    paired: bool,
    seed: int = 0,
) -> tuple[float, float, float]:
    """KID x 1000 of the first minus that of the second, mean over seeds, with its interval.

    The terms among real images cancel. Real images and fakes are drawn again with replacement; of a
    pair of equal images drawn twice nothing counts, so the estimate stays unbiased.

    Args:
        real: (n, D), n at least 2.
        first: for each seed (m, D), m at least 2.
        second: likewise, as many seeds.
        paired: image i of both has the same origin: both are drawn alike.
        seed: of the resampling.

    Returns:
        Difference, lower and upper end of the 90 % interval.
    """
    source = torch.Generator().manual_seed(seed)
    totals = torch.zeros(DRAWS + 1, dtype=torch.float64)
    x = real.double()
    w = _counts(len(x), source)
    for a, b in zip(first, second, strict=True):
        u = _counts(len(a), source)
        v = u if paired and len(a) == len(b) else _counts(len(b), source)
        totals += (_part(x, a.double(), w, u) - _part(x, b.double(), w, v)) / len(first)
    totals = 1000 * totals
    low, high = torch.quantile(
        totals[1:], torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    )
    return float(totals[0]), float(low), float(high)


def _counts(size: int, source: torch.Generator) -> Tensor:
    """How often each image is drawn, (draws + 1, size); the first row is the set as it is."""
    drawn = torch.randint(size, (DRAWS, size), generator=source)
    counts = torch.zeros(DRAWS, size, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return torch.cat([torch.ones(1, size, dtype=torch.float64), counts])


def _part(x: Tensor, y: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """mean k(y, y') - 2 mean k(x, y) for each row of counts, (draws + 1,)."""
    own, mixed = _kernel(y, y), _kernel(x, y)
    pairs = u.sum(1).square() - u.square().sum(1)
    within = ((u @ own) * u).sum(1) - u.square() @ own.diagonal()
    return within / pairs - 2 * ((w @ mixed) * u).sum(1) / (w.sum(1) * u.sum(1))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a.b / D + 1)^3, the kernel of `defectgen.metrics.distances.kid`."""
    return (a @ b.t() / a.shape[1] + 1).pow(3)

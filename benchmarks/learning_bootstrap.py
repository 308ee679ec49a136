"""Is one score smaller than another? Resamples of the data, kept for later comparisons.

*Draws* are a quantity on the data as they are, then on each resample, (draws + 1,). Those of two
runs were resampled alike where they share data, so their difference has the right interval.

Letters: n real images, m fakes, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from defectgen.downstream.curve import DRAWS
from defectgen.rng import generator


def kid_draws(real: Tensor, fake: Tensor, origin: str, seed: int = 0) -> Tensor:
    """What of 1000 x KID depends on the fakes: mean k(y, y') - 2 mean k(x, y); (draws + 1,).

    In a difference of two such, the terms among real images cancel. Real images and fakes are drawn
    again with replacement; of a pair of equal images drawn twice nothing counts, so the estimate
    stays unbiased. The real ones are drawn alike in every call.

    Args:
        real: (n, D), n at least 2.
        fake: (m, D), m at least 2.
        origin: fakes of one origin are drawn alike: image i of both has the same origin.
        seed: of the resampling.
    """
    x, y = real.double(), fake.double()
    w = _counts(len(x), generator(seed, "real"))
    u = _counts(len(y), generator(seed, "fake", origin))
    own, mixed = _kernel(y, y), _kernel(x, y)
    pairs = u.sum(1).square() - u.square().sum(1)
    within = ((u @ own) * u).sum(1) - u.square() @ own.diagonal()
    return 1000 * (within / pairs - 2 * ((w @ mixed) * u).sum(1) / (w.sum(1) * u.sum(1)))


def _counts(size: int, source: torch.Generator) -> Tensor:
    """How often each image is drawn, (draws + 1, size); the first row is the set as it is."""
    drawn = torch.randint(size, (DRAWS, size), generator=source)
    counts = torch.zeros(DRAWS, size, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return torch.cat([torch.ones(1, size, dtype=torch.float64), counts])


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a.b / D + 1)^3, the kernel of `defectgen.metrics.distances.kid`."""
    return (a @ b.t() / a.shape[1] + 1).pow(3)

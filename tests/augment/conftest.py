from __future__ import annotations

import pytest
import torch

from defectgen.augment import POLICIES, AugmentPolicy


@pytest.fixture
def only():
    """only(*names): the policy with just these operations."""

    def build(*names):
        return AugmentPolicy.from_dict(POLICIES["none"].to_dict() | dict.fromkeys(names, True))

    return build


@pytest.fixture
def source():
    """source(seed=0): a generator of its own."""
    return lambda seed=0: torch.Generator().manual_seed(seed)


def waves(x, y):
    """Three smooth functions of the position in pixels from the center, in [-1, 1]."""
    return torch.stack(
        [torch.sin(x / 5 + y / 7), torch.cos(y / 4 - 0.5), torch.cos(x / 6) * y / 40]
    )


@pytest.fixture
def smooth():
    """smooth(n=1, height=32, width=32, matrix=None): the waves, seen through a (3, 3) map."""

    def build(n=1, height=32, width=32, matrix=None):
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float64) - (height - 1) / 2,
            torch.arange(width, dtype=torch.float64) - (width - 1) / 2,
            indexing="ij",
        )
        if matrix is not None:
            m = matrix.double()
            x, y = m[0, 0] * x + m[0, 1] * y + m[0, 2], m[1, 0] * x + m[1, 1] * y + m[1, 2]
        return waves(x, y).expand(n, 3, height, width).clone()

    return build


@pytest.fixture
def binomial_close():
    """binomial_close(hits, p): the share of true entries agrees with p within 4 sigma."""

    def check(hits, p):
        n = hits.numel()
        return abs(float(hits.double().mean()) - p) < 4 * (p * (1 - p) / n) ** 0.5

    return check

"""Principal components, and linear maps from codes to them."""

from __future__ import annotations

import torch
from torch import Tensor

from defectgen.networks.layers import Linear

#: A component has at least this share of the variance of the first.
RANK = 1e-6


def principal(flat: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Scores (n, K) of unit variance and components (K, F) of centered rows (n, F), K <= most."""
    rows = flat.double()
    # The Gram matrix of n images is smaller than the covariance of all pixels.
    values, vectors = torch.linalg.eigh(rows @ rows.t())
    # What rounding alone tells apart is no component, and no two runs would agree on it.
    rank = int((values > RANK * values[-1].clamp_min(1e-12)).sum())
    count = min(most, rank)
    scores = vectors.flip(1)[:, :count] * len(rows) ** 0.5
    return scores, (scores.t() @ rows / len(rows)).to(flat.dtype)


@torch.no_grad()
def fit_line(layer: Linear, codes: Tensor, scores: Tensor) -> None:
    """Set a linear layer so that codes (n, W) give these scores (n, K) in its first K outputs."""
    used = codes.double()
    eye = torch.eye(used.shape[1], dtype=used.dtype, device=used.device)
    ridge = (1e-4 * float(used.square().sum(1).mean()) + 1e-8) * eye
    solved = torch.linalg.solve(used.t() @ used + ridge, used.t() @ scores)  # (W, K)
    weight = layer.weight
    weight.zero_()[: scores.shape[1]] = solved.t().to(weight.dtype) * weight.shape[1] ** 0.5
    layer.bias.zero_()

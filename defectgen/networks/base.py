"""What all images of a product share, before any network: their mean and principal components."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defectgen.config import BackboneConfig
from defectgen.networks.layers import Linear

#: At most so many images enter the principal components.
BASE_IMAGES = 512
#: A component has at least this share of the variance of the first.
RANK = 1e-6


class BaseImage(nn.Module):
    """mean + sum_k c_k(w) component_k: a linear picture of the product, below all that is learned.

    Hundreds of images of a part in a fixed pose lie near a plane of few dimensions (Turk and
    Pentland 1991). The blocks then learn what that plane lacks, not where the part is.

    Attributes:
        mean: (C, R, R), fixed.
        components: (K, C, R, R), fixed; scaled so that coefficients vary by about one.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        size = config.channels, config.resolution, config.resolution
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.zeros(config.base_components, *size))
        self.coefficients = Linear(config.w_dim, config.base_components)

    @torch.no_grad()
    def set(self, images: Tensor, codes: Tensor) -> None:
        """Principal components of images (n, C, R, R), and their coefficients from codes (n, W)."""
        stride = -(-len(images) // BASE_IMAGES)
        images, codes = images[::stride], codes[::stride]
        self.mean.copy_(images.mean(dim=0))
        flat = (images - self.mean).flatten(1).double()
        # The Gram matrix of n images is smaller than the covariance of all pixels.
        values, vectors = torch.linalg.eigh(flat @ flat.t())
        # What rounding alone tells apart is no component, and no two runs would agree on it.
        rank = int((values > RANK * values[-1].clamp_min(1e-12)).sum())
        count = min(len(self.components), rank)
        vectors = vectors.flip(1)[:, :count]
        scores = vectors * len(images) ** 0.5  # (n, K), unit variance
        basis = (scores.t() @ flat / len(images)).to(self.components.dtype)
        self.components.zero_()[:count] = basis.view(count, *self.mean.shape)
        used = codes.double()
        eye = torch.eye(used.shape[1], dtype=used.dtype, device=used.device)
        ridge = (1e-4 * float(used.square().sum(1).mean()) + 1e-8) * eye
        solved = torch.linalg.solve(used.t() @ used + ridge, used.t() @ scores)  # (W, K)
        weight = self.coefficients.weight
        weight.zero_()[:count] = solved.t().to(weight.dtype) * weight.shape[1] ** 0.5
        self.coefficients.bias.zero_()

    def forward(self, w: Tensor) -> Tensor:
        """w (N, W) -> (N, C, R, R)."""
        weights: Tensor = self.coefficients(w)
        return self.mean + (weights @ self.components.flatten(1)).view(-1, *self.mean.shape)

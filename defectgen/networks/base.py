"""What all images of a product share, before any network: their mean and principal components."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defectgen.config import BackboneConfig
from defectgen.networks.grain import Grain, enlarged, plain_color, shading
from defectgen.networks.layers import Linear
from defectgen.rng import Noise, no_noise

#: At most so many images enter the principal components.
BASE_IMAGES = 512
#: A component has at least this share of the variance of the first.
RANK = 1e-6
#: The shading of so many is computed at a time.
AT_ONCE = 32


class BaseImage(nn.Module):
    """mean + sum_k c_k(w) component_k (+ grain): a picture of the product, below what is learned.

    Hundreds of images of a part in a fixed pose lie near a plane of few dimensions (Turk and
    Pentland 1991). The blocks then learn what that plane lacks, not where the part is. Of a
    texture only the shading lies on such a plane; noise chooses a `grain`, and its place.

    Attributes:
        mean: (C, R, R), fixed.
        components: (K, C, R, R), fixed; scaled so that coefficients vary by about one.
        grain: that of a texture, or None.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        size = config.channels, config.resolution, config.resolution
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.zeros(config.base_components, *size))
        self.coefficients = Linear(config.w_dim, config.base_components)
        self.grain = (
            Grain(config.channels, config.resolution, config.grain_fields)
            if config.grain_fields
            else None
        )

    @torch.no_grad()
    def set(self, images: Tensor, codes: Tensor) -> None:
        """Principal components of images (n, C, R, R), and their coefficients from codes (n, W)."""
        stride = -(-len(images) // BASE_IMAGES)
        shown, codes = images[::stride], codes[::stride]
        if self.grain is not None:
            plain = plain_color(images)
            self.grain.set(images, plain)
            if plain is not None:  # no component: a rest of rounding would be one
                self.mean.copy_(plain.expand_as(self.mean))
                for some in (self.components, self.coefficients.weight, self.coefficients.bias):
                    some.zero_()
                return
            # Of large images all at once would take much.
            shown = torch.cat([shading(part) for part in torch.split(shown, AT_ONCE)])
        mean, side = shown.mean(dim=0), self.mean.shape[-1]
        scores, basis = principal((shown - mean).flatten(1), len(self.components))
        self.mean.copy_(enlarged(mean[None], side)[0])
        self.components.zero_()[: len(basis)] = enlarged(basis.view(-1, *mean.shape), side)
        fit_line(self.coefficients, codes, scores)

    def forward(self, w: Tensor, noise: Noise = no_noise) -> Tensor:
        """w (N, W) -> (N, C, R, R); the grain, where there is one, is drawn from the noise."""
        weights: Tensor = self.coefficients(w)
        image = self.mean + (weights @ self.components.flatten(1)).view(-1, *self.mean.shape)
        grain = None if self.grain is None else self.grain(w, noise)
        return image if grain is None else image + grain


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

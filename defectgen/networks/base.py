"""What all images of a product share, before any network: their mean and principal components."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defectgen.config import BackboneConfig
from defectgen.networks.grain import Grain, enlarged, plain_color, shading
from defectgen.networks.layers import Linear
from defectgen.networks.principal import fit_line, principal
from defectgen.rng import Noise, no_noise

#: At most so many images enter the principal components.
BASE_IMAGES = 512
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
        if self.grain is not None:
            plain = plain_color(images)
            self.grain.set(images, plain)
            if plain is not None:  # no component: a rest of rounding would be one
                self.mean.copy_(plain.expand_as(self.mean))
                for some in (self.components, self.coefficients.weight, self.coefficients.bias):
                    some.zero_()
                return
        stride = -(-len(images) // BASE_IMAGES)
        images, codes = images[::stride], codes[::stride]
        if self.grain is not None:  # of large images all at once would take much
            images = torch.cat([shading(some) for some in torch.split(images, AT_ONCE)])
        mean, side = images.mean(dim=0), self.mean.shape[-1]
        scores, basis = principal((images - mean).flatten(1), len(self.components))
        self.mean.copy_(enlarged(mean[None], side)[0])
        self.components.zero_()[: len(basis)] = enlarged(basis.view(-1, *mean.shape), side)
        fit_line(self.coefficients, codes, scores)

    def forward(self, w: Tensor, noise: Noise = no_noise) -> Tensor:
        """w (N, W) -> (N, C, R, R); the grain, where there is one, is drawn from the noise."""
        weights: Tensor = self.coefficients(w)
        image = self.mean + (weights @ self.components.flatten(1)).view(-1, *self.mean.shape)
        grain = None if self.grain is None else self.grain(w, noise)
        return image if grain is None else image + grain

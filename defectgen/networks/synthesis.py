"""The synthesis network and the generator of the backbone (StyleGAN2, figure 7: output skips).

The backbone does not know that defects exist: ``residual`` is the only door.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from defectgen.config import BackboneConfig
from defectgen.networks.base import BaseImage
from defectgen.networks.layers import ModulatedLayer, ToChannels, initialize, two_layers
from defectgen.networks.mapping import CodeMapping, MappingNetwork
from defectgen.networks.precision import PreciseBlock
from defectgen.ops import upsample2d
from defectgen.rng import Noise


class Residual(Protocol):
    """What may change the features of a block before ToRGB and the next block see them."""

    def __call__(self, resolution: int, x_in: Tensor | None, x_out: Tensor) -> Tensor:
        """Return the features that replace ``x_out``; ``x_in`` is what entered the block."""
        ...

    def below(self, base: Tensor) -> Tensor:
        """Return what replaces the base image, (N, C, R, R)."""
        ...


class SynthesisBlock(PreciseBlock):
    """One resolution: conv0 (doubles it, absent at 4 px), conv1, ToRGB."""

    def __init__(self, config: BackboneConfig, resolution: int) -> None:
        super().__init__()
        out, w_dim, clamp = config.width(resolution), config.w_dim, config.clamp
        self.resolution = resolution
        self.in_half = resolution > config.resolution >> config.half_resolutions
        name = f"b{resolution}"
        if resolution == 4:
            self.const = nn.Parameter(torch.zeros(out, 4, 4))
        else:
            ins = config.width(resolution // 2)
            self.conv0 = ModulatedLayer(
                f"{name}.conv0", ins, out, w_dim, resolution, up=2, clamp=clamp
            )
        self.conv1 = ModulatedLayer(f"{name}.conv1", out, out, w_dim, resolution, clamp=clamp)
        self.to_rgb = ToChannels(out, config.channels, w_dim, clamp=clamp)

    def features(self, x: Tensor | None, ws: Tensor, noise: Noise) -> Tensor:
        """x (N, I, r/2, r/2) or None at 4 px, ws (N, 2, W) or (N, 1, W) at 4 px -> (N, C, r, r)."""
        dtype = self.working(ws)
        if x is None:
            x = self.const.to(dtype).expand(ws.shape[0], -1, -1, -1)
            x = x.contiguous(memory_format=torch.channels_last)
            return self.conv1(x, ws[:, 0], noise)  # type: ignore[no-any-return]
        return two_layers(self.conv0, self.conv1, x.to(dtype), ws, noise)


class SynthesisNetwork(nn.Module):
    """w -> image, from a learned 4 px constant up, one block per resolution.

    Latent slots: 4 px uses 0 (conv) and 1 (rgb); block k (8 px: k = 1) uses 2k-1, 2k for its
    convolutions and 2k+1 for ToRGB, which it shares with the next block's conv0.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        count = config.resolution.bit_length() - 2
        self.resolutions = tuple(4 << k for k in range(count))
        self.num_ws = 2 * count
        self.blocks = nn.ModuleDict({str(r): SynthesisBlock(config, r) for r in self.resolutions})
        self.base = BaseImage(config) if config.base_components else None

    def block(self, resolution: int) -> SynthesisBlock:
        """Return the block of this resolution."""
        return cast(SynthesisBlock, self.blocks[str(resolution)])

    def forward(
        self,
        ws: Tensor,  # (N, L, W)
        noise: Noise,
        residual: Residual | None = None,
    ) -> Tensor:
        """Return the image (N, C, R, R) float32, nominally in [-1, 1], not clamped.

        At each resolution ``residual(resolution, x_in, x_out)`` replaces the features before
        ToRGB and the next block.
        """
        x: Tensor | None = None
        image: Tensor | None = None
        for k, resolution in enumerate(self.resolutions):
            block = self.block(resolution)
            y = self._features(k, x, ws, noise)
            if residual is not None:
                y = residual(resolution, x, y)
            rgb = block.to_rgb(y, ws[:, 2 * k + 1]).to(ws.dtype)
            image = rgb if image is None else upsample2d(image) + rgb
            x = y
        image = cast(Tensor, image)  # there is always a block of 4 px
        if self.base is not None:
            base = self.base(ws[:, 0], noise)
            image = image + (base if residual is None else residual.below(base))
        return image.contiguous()

    def entering(self, resolution: int, ws: Tensor, noise: Noise) -> Tensor:
        """Features (N, I, r/2, r/2) that enter the block of this resolution, 8 px or more."""
        x: Tensor | None = None
        for k in range(self.resolutions.index(resolution)):
            x = self._features(k, x, ws, noise)
        return cast(Tensor, x).to(self.block(resolution).working(ws))

    def _features(self, k: int, x: Tensor | None, ws: Tensor, noise: Noise) -> Tensor:
        first = max(0, 2 * k - 1)
        return self.block(self.resolutions[k]).features(x, ws[:, first : first + 2], noise)


class Generator(nn.Module):
    """Mapping and synthesis together."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        dims = config.z_dim, config.w_dim
        self.mapping: MappingNetwork | CodeMapping = (
            CodeMapping(*dims, config.mapping_codes)
            if config.mapping_codes
            else MappingNetwork(*dims, config.mapping_layers)
        )
        self.synthesis = SynthesisNetwork(config)

    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights from one generator."""
        initialize(self, generator)
        with torch.no_grad():
            self.synthesis.block(4).const.normal_(generator=generator)
            if self.synthesis.base is not None:  # the picture begins as the base
                for resolution in self.synthesis.resolutions:
                    self.synthesis.block(resolution).to_rgb.weight.zero_()

    def forward(self, z: Tensor, noise: Noise, *, psi: float = 1.0) -> Tensor:
        """z (N, Z) -> image (N, C, R, R), nominally in [-1, 1]."""
        return self.synthesis(self.broadcast(self.mapping(z, psi=psi)), noise)  # type: ignore[no-any-return]

    def broadcast(self, w: Tensor) -> Tensor:
        """w (N, W) -> the same latent in every slot (N, L, W)."""
        return w.unsqueeze(1).expand(-1, self.synthesis.num_ws, -1)

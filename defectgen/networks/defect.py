"""The defect-aware residual blocks and the defect branch (DFMGAN, AAAI 2023, section 3).

With F_r the features after manipulation, B_r the frozen backbone block and R_r the residual block:

    H_r = R_r(F_{r/2}; w_defect)
    m_r = ToMask(H_r)            at the first manipulated resolution, else m_r = up2(m_{r/2})
    F_r = B_r(F_{r/2}; w_object) + H_r * 1[m_r >= 0]
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen.config import BackboneConfig, DefectConfig
from defectgen.errors import ConfigError
from defectgen.networks.defect_block import DefectAwareResBlock
from defectgen.networks.known import PLANES, KnownDefects, mask_planes
from defectgen.networks.layers import initialize
from defectgen.networks.mapping import CodeMapping, MappingNetwork
from defectgen.ops import masked_add
from defectgen.ops.masked_add import upsample_logits
from defectgen.rng import Noise

#: Layers of the defect's mapping network where the backbone's is linear.
MAPPING_LAYERS = 4


class DefectBranch(nn.Module):
    """Everything a defect type adds to a frozen backbone: mapping, blocks, mask head.

    Latent slots: block k (from the first manipulated resolution, k = 0) uses 2k and 2k+1 for its
    convolutions; ToMask uses slot 2, shared with the second block's conv0.
    """

    def __init__(self, backbone: BackboneConfig, config: DefectConfig) -> None:
        super().__init__()
        self.config = config
        self.final_resolution = backbone.resolution
        dims = backbone.z_dim, backbone.w_dim
        self.mapping: MappingNetwork | CodeMapping = (
            CodeMapping(*dims, config.known)
            if config.known
            else MappingNetwork(*dims, backbone.mapping_layers or MAPPING_LAYERS)
        )
        first = config.first_resolution
        if first < 8 or first > backbone.resolution or first & (first - 1):
            raise ConfigError(
                f"first_resolution: a power of two from 8 to {backbone.resolution}, the image's; "
                f"got {first}; a quarter of the image's is usual."
            )
        resolutions = []
        r = config.first_resolution
        while r <= backbone.resolution:
            resolutions.append(r)
            r *= 2
        self.resolutions = tuple(resolutions)
        self.num_ws = max(3, 2 * len(resolutions))
        told = PLANES + backbone.channels * (2 if backbone.base_components else 1)
        texture, size = backbone.grain_fields > 0, (backbone.channels, backbone.resolution)
        self.known = KnownDefects(config.known, *size, texture=texture) if config.known else None
        self.blocks = nn.ModuleDict(
            {
                str(r): DefectAwareResBlock(
                    backbone.width(r // 2),
                    backbone.width(r),
                    backbone.w_dim,
                    r,
                    has_mask=r == resolutions[0] and not config.known,
                    planes=told if config.known else 0,
                    gate=config.gate,
                    clamp=backbone.clamp,
                )
                for r in resolutions
            }
        )

    def reset(self, source: torch.Generator) -> None:
        """Draw all weights from one generator."""
        initialize(self, source)

    def block(self, resolution: int) -> DefectAwareResBlock:
        """Return the block of this resolution."""
        return cast(DefectAwareResBlock, self.blocks[str(resolution)])

    @property
    def first(self) -> DefectAwareResBlock:
        """The block with the mask head."""
        return self.block(self.resolutions[0])

    def broadcast(self, w: Tensor) -> Tensor:
        """w (N, W) -> the same latent in every slot (N, L, W)."""
        return w.unsqueeze(1).expand(-1, self.num_ws, -1)

    def final_logits(self, x_in: Tensor, ws: Tensor, noise: Noise) -> Tensor:
        """Mask logits (N, 1, R, R) alone: all that a render decides of its mask.

        Args:
            x_in: features that enter the backbone's block of the first manipulated resolution.
            ws: (N, L, W) defect latents.
            noise: as in `start`.
        """
        h = self.first.features(x_in, ws, noise)
        return upsample_logits(self.first.logits(h, ws[:, 2]), self.final_resolution)

    def start(
        self,
        ws: Tensor,
        noise: Noise,
        imposed: Tensor | None = None,
        told: tuple[Tensor, ...] = (),
    ) -> DefectPass:
        """Return the hook for one forward pass of the backbone's synthesis network.

        Args:
            ws: (N, L, W) defect latents.
            noise: source of the noise planes of the residual layers.
            imposed: bool (N, 1, R, R); gates follow this mask instead of the predicted logits.
            told: (N, C, R, R) each: an example of the defect inside the mask, and the base image of
                the backbone, where it has one.
        """
        return DefectPass(self, ws, noise, imposed, told)


class DefectPass:
    """The hook of one forward pass; afterwards it holds what the pass decided.

    Attributes:
        logits: (N, 1, r0, r0) mask logits of the first manipulated resolution.
        final_logits: (N, 1, R, R), the same upsampled to the image.
        gates: for each manipulated resolution the bool (N, 1, r, r) gate that was open.
    """

    def __init__(
        self,
        branch: DefectBranch,
        ws: Tensor,
        noise: Noise,
        imposed: Tensor | None,
        told: tuple[Tensor, ...] = (),
    ) -> None:
        self.branch, self.ws, self.noise, self.imposed = branch, ws, noise, imposed
        self.told = told
        self.gates: dict[int, Tensor] = {}
        self.logits: Tensor = ws.new_zeros(0)
        self.final_logits: Tensor = ws.new_zeros(0)

    @property
    def mask(self) -> Tensor:
        """The final mask, bool (N, 1, R, R): imposed, or logits >= 0."""
        return self.final_logits >= 0 if self.imposed is None else self.imposed

    def __call__(self, resolution: int, x_in: Tensor | None, x_out: Tensor) -> Tensor:
        """Manipulate ``x_out`` if this resolution is manipulated; see `Residual`."""
        if resolution not in self.branch.resolutions or x_in is None:
            return x_out
        block = self.branch.block(resolution)
        slot = 2 * self.branch.resolutions.index(resolution)
        ws = self.ws[:, slot : slot + 3]
        h = block.features(x_in.to(x_out.dtype), ws, self.noise, self._told(resolution))
        if block.to_mask is not None:
            self.logits = block.logits(h, ws[:, 2])
            self.final_logits = upsample_logits(self.logits, self.branch.final_resolution)
        if self.imposed is not None:
            gate = self._contained(resolution)
            self.gates[resolution] = gate
            return x_out + h * gate.to(h.dtype)
        m = upsample_logits(self.logits, resolution)
        within = self._contained(resolution) if self.branch.config.contained else None
        self.gates[resolution] = m.detach() >= 0 if within is None else (m.detach() >= 0) & within
        return masked_add(x_out, h, m, mode=block.gate, within=within)

    def below(self, base: Tensor) -> Tensor:
        """What lies below all features: the base image, inside the mask the example."""
        if self.branch.known is None or self.imposed is None:
            return base
        return torch.where(self.imposed, self.told[0].to(base.dtype), base)

    def _told(self, resolution: int) -> Tensor | None:
        """What a block is told: planes of the mask, an example, and the base image."""
        if self.branch.known is None or self.imposed is None:
            return None
        images = [F.adaptive_avg_pool2d(image, resolution) for image in self.told]
        return torch.cat([mask_planes(self.imposed, resolution), *images], dim=1)

    def _contained(self, resolution: int) -> Tensor:
        """Cells of this resolution whose every image pixel lies in the final mask, bool."""
        factor = self.branch.final_resolution // resolution
        outside = (~self.mask.detach()).to(torch.float32)
        return F.max_pool2d(outside, factor) == 0 if factor > 1 else self.mask.detach()


def receptive_radius(first_resolution: int, resolution: int) -> int:
    """How far, in image pixels, an open gate can change the image around it.

    A gate at r px changes F_r inside the gate only. Every later block spreads a change by its
    up-convolution (3x3 at zero-inserted double resolution, then 4 taps) and its 3x3 convolution;
    the output skip spreads the image of each resolution by the 4-tap upsampling. The function walks
    these steps for each manipulated resolution and returns the largest reach.

    For a first resolution of a quarter of the image's it is 9 px.
    """
    reach = 0
    r = first_resolution
    while r <= resolution:
        features, image, at = 0, 0, r
        while at < resolution:
            # Reach in pixels of the doubled resolution, counted from the cell's own two pixels:
            # a transposed 3x3 convolution with the 4-tap filter adds 2, the 3x3 convolution 1;
            # upsampling the image with 4 taps adds 1.
            features, image = 2 * features + 2 + 1, 2 * image + 1
            image = max(image, features)
            at *= 2
        reach = max(reach, features, image)
        r *= 2
    return reach

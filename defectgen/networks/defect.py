"""The defect-aware residual blocks and the defect branch (DFMGAN, AAAI 2023, section 3).

With F_r the features after manipulation, B_r the frozen backbone block and R_r the residual block:

    H_r = R_r(F_{r/2}; w_defect)
    m_r = ToMask(H_r)            at the first manipulated resolution, else m_r = up2(m_{r/2})
    F_r = B_r(F_{r/2}; w_object) + H_r * 1[m_r >= 0]
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen.config import BackboneConfig, DefectConfig
from defectgen.errors import ConfigError
from defectgen.networks.layers import ModulatedLayer, ToChannels, initialize, two_layers
from defectgen.networks.mapping import MappingNetwork
from defectgen.ops import masked_add
from defectgen.ops.masked_add import upsample_logits
from defectgen.rng import Noise, generator


class DefectAwareResBlock(nn.Module):
    """One manipulated resolution r: residual features, mask head, gate and addition.

    Usable alone, beside any block that maps (N, I, r/2, r/2) to (N, C, r, r).

    Args:
        in_channels: I, channels of the features that enter the backbone's block.
        out_channels: C, channels of the features that leave it.
        w_dim: W, size of the defect latent.
        resolution: r, pixels.
        has_mask: build the ToMask head; the first manipulated resolution has one.
        gate: "hard" or "straight_through", see :func:`defectgen.ops.masked_add`.
        clamp: limit of activations and mask logits.
        seed: of the initial weights.

    Source: DFMGAN, figure 2 and section "Defect-aware residual blocks".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        has_mask: bool = False,
        gate: str = "hard",
        clamp: float | None = 256.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.resolution, self.gate = resolution, gate
        name = f"defect{resolution}"
        self.conv0 = ModulatedLayer(
            f"{name}.conv0", in_channels, out_channels, w_dim, resolution, up=2, clamp=clamp
        )
        self.conv1 = ModulatedLayer(
            f"{name}.conv1", out_channels, out_channels, w_dim, resolution, clamp=clamp
        )
        self.to_mask = ToChannels(out_channels, 1, w_dim, clamp=clamp) if has_mask else None
        self.reset(generator(seed, name))

    def reset(self, source: torch.Generator) -> None:
        """Draw all weights from one generator."""
        initialize(self, source)

    def features(self, x_in: Tensor, ws: Tensor, noise: Noise) -> Tensor:
        """H_r: x_in (N, I, r/2, r/2), ws (N, >=2, W) -> (N, C, r, r), not gated."""
        return two_layers(self.conv0, self.conv1, x_in, ws, noise)

    def logits(self, features: Tensor, w: Tensor) -> Tensor:
        """m_r: ungated H_r (N, C, r, r) and w (N, W) -> mask logits (N, 1, r, r) in float32.

        Computed in float32 (or float64) whatever the dtype of the features: in half precision the
        logits near zero, where the mask is decided, would be rounded.

        Raises:
            TypeError: if the block was built without the head.
        """
        if self.to_mask is None:
            raise TypeError(
                f"logits: a block built with has_mask=True; this one at {self.resolution} px has "
                "no ToMask head; take the logits of the first manipulated resolution."
            )
        exact = torch.promote_types(features.dtype, torch.float32)
        return self.to_mask(features.to(exact), w)  # type: ignore[no-any-return]

    def forward(
        self,
        x_in: Tensor,  # (N, I, r/2, r/2)
        x_out: Tensor,  # (N, C, r, r)
        ws: Tensor,  # (N, 3, W) with a head, (N, 2, W) without
        noise: Noise,
        *,
        logits: Tensor | None = None,  # (N, 1, h, h), h <= r
        within: Tensor | None = None,  # (N, 1, r, r) bool
    ) -> tuple[Tensor, Tensor]:
        """Manipulate the features of one resolution.

        Args:
            x_in: what enters the backbone's block.
            x_out: what leaves it.
            ws: defect latents for conv0, conv1 and, with a head, ToMask.
            noise: source of the two noise planes.
            logits: mask logits of this or a lower resolution; None asks the head.
            within: where False the gate stays closed.

        Returns:
            The manipulated features (N, C, r, r), and the logits that gated them.
        """
        h = self.features(x_in.to(x_out.dtype), ws, noise)
        m = self.logits(h, ws[:, 2]) if logits is None else logits
        return masked_add(x_out, h, m, mode=self.gate, within=within), m


class DefectBranch(nn.Module):
    """Everything a defect type adds to a frozen backbone: mapping, blocks, mask head.

    Latent slots: block k (from the first manipulated resolution, k = 0) uses 2k and 2k+1 for its
    convolutions; ToMask uses slot 2, shared with the second block's conv0.
    """

    def __init__(self, backbone: BackboneConfig, config: DefectConfig) -> None:
        super().__init__()
        self.config = config
        self.final_resolution = backbone.resolution
        self.mapping = MappingNetwork(backbone.z_dim, backbone.w_dim, backbone.mapping_layers)
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
        self.blocks = nn.ModuleDict(
            {
                str(r): DefectAwareResBlock(
                    backbone.width(r // 2),
                    backbone.width(r),
                    backbone.w_dim,
                    r,
                    has_mask=r == resolutions[0],
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
            noise: as in :meth:`start`.
        """
        h = self.first.features(x_in, ws, noise)
        return upsample_logits(self.first.logits(h, ws[:, 2]), self.final_resolution)

    def start(self, ws: Tensor, noise: Noise, imposed: Tensor | None = None) -> DefectPass:
        """Return the hook for one forward pass of the backbone's synthesis network.

        Args:
            ws: (N, L, W) defect latents.
            noise: source of the noise planes of the residual layers.
            imposed: bool (N, 1, R, R); gates follow this mask instead of the predicted logits.
        """
        return DefectPass(self, ws, noise, imposed)


class DefectPass:
    """The hook of one forward pass; afterwards it holds what the pass decided.

    Attributes:
        logits: (N, 1, r0, r0) mask logits of the first manipulated resolution.
        final_logits: (N, 1, R, R), the same upsampled to the image.
        gates: for each manipulated resolution the bool (N, 1, r, r) gate that was open.
    """

    def __init__(
        self, branch: DefectBranch, ws: Tensor, noise: Noise, imposed: Tensor | None
    ) -> None:
        self.branch, self.ws, self.noise, self.imposed = branch, ws, noise, imposed
        self.gates: dict[int, Tensor] = {}
        self.logits: Tensor = ws.new_zeros(0)
        self.final_logits: Tensor = ws.new_zeros(0)

    @property
    def mask(self) -> Tensor:
        """The final mask, bool (N, 1, R, R): imposed, or logits >= 0."""
        return self.final_logits >= 0 if self.imposed is None else self.imposed

    def __call__(self, resolution: int, x_in: Tensor | None, x_out: Tensor) -> Tensor:
        """Manipulate ``x_out`` if this resolution is manipulated; see :class:`Residual`."""
        if resolution not in self.branch.resolutions or x_in is None:
            return x_out
        block = self.branch.block(resolution)
        slot = 2 * self.branch.resolutions.index(resolution)
        ws = self.ws[:, slot : slot + 3]
        h = block.features(x_in.to(x_out.dtype), ws, self.noise)
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


def initial_mask_bias(branch: DefectBranch, logits: Tensor, area: float) -> float:
    """Offset for the mask head's bias so that a share ``area`` of these logits is >= 0.

    Args:
        branch: its ToMask bias is changed in place.
        logits: (N, 1, r, r) logits the branch gives now.
        area: mean area of the real masks, in (0, 1).

    Returns:
        The amount added to the bias; 0 if the logits are not finite.
    """
    # Logits of a fresh head vary by about one; a quantile makes the start independent of that.
    level = torch.quantile(logits.detach().float().flatten(), 1 - min(max(area, 1e-4), 0.5))
    offset = -float(level)
    if not math.isfinite(offset):
        return 0.0
    with torch.no_grad():
        cast(ToChannels, branch.first.to_mask).bias.add_(offset)
    return offset

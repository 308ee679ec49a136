"""The defect-aware residual block (DFMGAN, AAAI 2023, section 3), usable alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defectgen.networks.layers import Conv2d, ModulatedLayer, ToChannels, initialize, two_layers
from defectgen.ops import masked_add
from defectgen.rng import Noise, generator


class DefectAwareResBlock(nn.Module):
    """One manipulated resolution r: residual features, mask head, gate and addition.

    Usable alone, beside any block that maps (N, I, r/2, r/2) to (N, C, r, r).

    Args:
        in_channels: I, channels of the features that enter the backbone's block.
        out_channels: C, channels of the features that leave it.
        w_dim: W, size of the defect latent.
        resolution: r, pixels.
        has_mask: build the ToMask head; where masks are learned (the preset), the first manipulated
            resolution has one.
        planes: P, channels of what the block is told at its resolution, such as the mask.
        gate: "hard" or "straight_through", see `defectgen.ops.masked_add`.
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
        planes: int = 0,
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
        self.told = Conv2d(planes, out_channels, 3) if planes else None
        # What a block adds to an example begins as nothing (Bachlechner et al. 2021, equation 3).
        self.strength = nn.Parameter(torch.zeros(())) if planes else None
        self.reset(generator(seed, name))

    def reset(self, source: torch.Generator) -> None:
        """Draw all weights from one generator."""
        initialize(self, source)

    def features(
        self, x_in: Tensor, ws: Tensor, noise: Noise, planes: Tensor | None = None
    ) -> Tensor:
        """H_r: x_in (N, I, r/2, r/2), ws (N, >=2, W) -> (N, C, r, r), not gated.

        ``planes`` (N, P, r, r): what a block built with ``planes`` is told.
        """
        if self.told is None or self.strength is None or planes is None:
            return two_layers(self.conv0, self.conv1, x_in, ws, noise)
        x = self.conv0(x_in, ws[:, 0], noise)
        x = x + self.told(planes.to(x.dtype))
        return self.conv1(x, ws[:, 1], noise) * self.strength.to(x.dtype)  # type: ignore[no-any-return]

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

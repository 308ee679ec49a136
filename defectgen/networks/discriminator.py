"""The residual discriminator (StyleGAN2, figure 7: residual nets), for images or image + mask."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from defectgen.networks.layers import Conv2d, Linear, initialize, minibatch_std
from defectgen.networks.precision import PreciseBlock


class DiscriminatorBlock(PreciseBlock):
    """3x3, 3x3 down, 1x1 down skip; both paths scaled by sqrt(1/2) and summed."""

    def __init__(self, in_channels: int, out_channels: int, clamp: float | None) -> None:
        super().__init__()
        self.conv0 = Conv2d(in_channels, in_channels, 3, act="lrelu", clamp=clamp)
        self.conv1 = Conv2d(in_channels, out_channels, 3, act="lrelu", down=True, clamp=clamp)
        self.skip = Conv2d(in_channels, out_channels, 1, bias=False, down=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, r, r) -> (N, O, r/2, r/2)."""
        gain = math.sqrt(0.5)
        return self.skip(x, gain=gain) + self.conv1(self.conv0(x), gain=gain)  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """Image (N, in_channels, R, R) -> logits (N, 1), R >= 8 a power of two.

    Args:
        resolution: R.
        in_channels: 3 or 1 for images, one more for image + mask.
        channel_base: width at r px is min(channel_base / r, channel_max).
        channel_max: see above.
        minibatch_group: group of the minibatch standard deviation.
        clamp: limit of the activations.
        half_resolutions: this many top resolutions run in fp16 on a GPU.
    """

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        *,
        channel_base: int,
        channel_max: int,
        minibatch_group: int = 4,
        clamp: float | None = 256.0,
        half_resolutions: int = 0,
    ) -> None:
        super().__init__()
        self.minibatch_group = minibatch_group

        def width(r: int) -> int:
            return min(channel_base // r, channel_max)

        self.from_input = Conv2d(in_channels, width(resolution), 1, act="lrelu", clamp=clamp)
        resolutions = [resolution >> k for k in range(resolution.bit_length() - 3)]
        self.blocks = nn.ModuleDict(
            {str(r): DiscriminatorBlock(width(r), width(r // 2), clamp) for r in resolutions}
        )
        for r in resolutions:
            self.block(r).in_half = r > resolution >> half_resolutions
        last = width(4)
        self.conv = Conv2d(last + 1, last, 3, act="lrelu", clamp=clamp)
        self.dense = Linear(last * 16, last, act="lrelu")
        self.out = Linear(last, 1)

    def block(self, resolution: int) -> DiscriminatorBlock:
        """Return the block of this resolution."""
        return cast(DiscriminatorBlock, self.blocks[str(resolution)])

    def reset(self, generator: torch.Generator) -> None:
        """Draw all weights from one generator."""
        initialize(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, R, R) in [-1, 1] -> logits (N, 1) float32."""
        like = x
        blocks = [self.block(int(key)) for key in self.blocks]
        x = x.to(blocks[0].working(like), memory_format=torch.channels_last)
        x = self.from_input(x)
        for block in blocks:
            x = block(x.to(block.working(like)))
        x = self.conv(minibatch_std(x.to(like.dtype), self.minibatch_group))
        return self.out(self.dense(x.contiguous().flatten(1)))  # type: ignore[no-any-return]

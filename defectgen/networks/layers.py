"""Elementary layers with equalized learning rate (Karras et al. 2018, section 4.1; StyleGAN2).

Letters: N batch, C or I/O channels, H/W pixels, W latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from defectgen.ops import bias_act, downsample2d, upfirdn2d
from defectgen.ops._library import needs_graph
from defectgen.ops.bias_act import GAINS, SLOPE
from defectgen.ops.convolution import conv2d
from defectgen.ops.modulated_conv2d import (
    convolve,
    demodulation,
    energy,
    guard_overflow,
    kernel_for,
    pointwise,
    up_padding,
)
from defectgen.ops.upfirdn2d import binomial_filter, upfirdn2d_bias_act
from defectgen.rng import Noise


class Linear(nn.Module):
    """y = act(x @ (weight * lr_mult / sqrt(I)).T + bias * lr_mult).

    The stored weight is N(0, 1) / lr_mult, so that Adam's step has the same relative size in every
    layer, times ``lr_mult``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        act: str = "linear",
        lr_mult: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = act
        self.lr_mult = lr_mult
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_mult))

    def reset(self, generator: torch.Generator) -> None:
        """Draw the weight."""
        with torch.no_grad():
            self.weight.normal_(generator=generator).div_(self.lr_mult)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        # All factors go into one product, gain included, which commutes with leaky ReLU: here an op
        # costs more than its arithmetic.
        gain = GAINS[self.act]
        scale = gain * self.lr_mult / math.sqrt(self.weight.shape[1])
        y = torch.addmm(self.bias, x, self.weight.t(), beta=gain * self.lr_mult, alpha=scale)
        return y if self.act == "linear" else F.leaky_relu(y, SLOPE)


class Conv2d(nn.Module):
    """Equalized convolution of the discriminator, optionally halving the resolution.

    Down: low-pass, then stride-2 convolution; for 1x1 kernels low-pass and decimation come first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        bias: bool = True,
        act: str = "linear",
        down: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act, self.down, self.clamp = act, down, clamp
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def reset(self, generator: torch.Generator) -> None:
        """Draw the weight."""
        with torch.no_grad():
            self.weight.normal_(generator=generator)

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        """(N, I, H, W) -> (N, O, H, W) or (N, O, H/2, W/2); ``gain`` scales result and clamp."""
        limit = gain
        kernel = self.weight.shape[2]
        # The gain commutes with convolution and leaky ReLU, so it multiplies the weights, which
        # are smaller than the features.
        gain = gain * (math.sqrt(2.0) if self.act == "lrelu" else 1.0)
        clamp = None if self.clamp is None else self.clamp * limit
        weight = (self.weight * (gain / math.sqrt(self.weight[0].numel()))).to(x.dtype)
        bias = None if self.bias is None else self.bias * gain
        if not self.down:
            x = conv2d(x, weight, padding=kernel // 2)
        elif kernel == 1:
            x = conv2d(downsample2d(x), weight)
        else:
            around = kernel // 2 + 1
            taps = binomial_filter(x.device, x.dtype)
            x = conv2d(upfirdn2d(x, taps, pad=(around,) * 4), weight, stride=2)
        return bias_act(x, bias, act=self.act, gain=1.0, clamp=clamp)


class ModulatedLayer(nn.Module):
    """Modulated convolution, demodulation, noise, bias, leaky ReLU (StyleGAN2, figure 2d).

    ``name`` is the key under which the noise source knows this layer.

    Attributes:
        kept: what follows from the weights alone, inside `constant_weights`; else None.
    """

    kept: dict[torch.dtype, tuple[tuple[int, int], tuple[Tensor, Tensor]]] | None = None

    def __init__(
        self,
        name: str,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.name, self.resolution, self.up, self.clamp = name, resolution, up, clamp
        self.affine = Linear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))

    def reset(self, generator: torch.Generator) -> None:
        """Draw the weight (the affine layer draws its own)."""
        with torch.no_grad():
            self.weight.normal_(generator=generator)

    def prepared(self, w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight (O, I, 3, 3) and styles (N, I) for features of this dtype."""
        styles: Tensor = self.affine(w)
        if dtype == torch.float16:
            return guard_overflow(self.weight, styles)
        return self.weight, styles

    def _constants(self, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The kernel for features of this dtype, and the energies (O, I) for demodulation."""
        idle = torch.is_grad_enabled() or torch.compiler.is_compiling()
        kept = None if idle else self.kept
        if kept is None or self.weight.is_inference():
            return kernel_for(weight, dtype, self.up), energy(weight)
        # Storage and version tell of a network that learns, or is loaded anew, between two samples.
        state = self.weight.data_ptr(), self.weight._version
        if dtype not in kept or kept[dtype][0] != state:
            kept[dtype] = state, (kernel_for(weight, dtype, self.up), energy(weight))
        return kept[dtype][1]

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        noise: Noise,
        *,
        modulated: bool = False,
        post: Tensor | None = None,
    ) -> Tensor:
        """x (N, I, H, W), w (N, W) -> (N, O, H*up, W*up).

        ``modulated``: x was multiplied by the styles before. ``post`` (N, O): styles of the next
        layer, multiplied onto the result.
        """
        weight, styles = self.prepared(w, x.dtype)
        x = x if modulated else bias_act(x, scale=styles)
        plane = noise(self.name, x.shape[0], self.resolution)
        if plane is not None:
            plane = plane.to(x.device) * self.noise_strength
        kernel, energies = self._constants(weight, x.dtype)
        y = convolve(x, kernel, self.up)
        scale = demodulation(energies, styles)
        end: _End = {"scale": scale, "noise": plane, "post": post, "clamp": self.clamp}
        if self.up == 1:
            return bias_act(y, self.bias, act="lrelu", **end)
        taps, pad = binomial_filter(y.device, y.dtype), up_padding(weight)
        if needs_graph(y, self.bias, scale, plane, post):
            y = upfirdn2d(y, taps, pad=pad, gain=4.0)
            return bias_act(y, self.bias, act="lrelu", **end)
        return upfirdn2d_bias_act(
            y, taps, pad=pad, filter_gain=4.0, bias=self.bias, act="lrelu", **end
        )


class _End(TypedDict):
    """What follows a convolution."""

    scale: Tensor
    noise: Tensor | None
    post: Tensor | None
    clamp: float | None


def two_layers(
    conv0: ModulatedLayer, conv1: ModulatedLayer, x: Tensor, ws: Tensor, noise: Noise
) -> Tensor:
    """conv1(conv0(x)), the modulation of conv1 done by the end of conv0.

    x (N, I, r/2, r/2), ws (N, >=2, W) -> (N, C, r, r).
    """
    _, styles = conv1.prepared(ws[:, 1], x.dtype)
    y: Tensor = conv0(x, ws[:, 0], noise, post=styles)
    return conv1(y, ws[:, 1], noise, modulated=True)  # type: ignore[no-any-return]


@contextmanager
def constant_weights(*networks: nn.Module) -> Iterator[None]:
    """Compute what follows from the weights of these networks once for all passes inside.

    Holds for passes without a graph; others compute as ever. A change of a weight between two
    passes is noticed, unless it is made in place behind autograd's back (``weight.data.mul_``).
    """
    layers = [m for n in networks for m in n.modules() if isinstance(m, ModulatedLayer)]
    for layer in layers:
        layer.kept = {}
    try:
        yield
    finally:
        for layer in layers:
            layer.kept = None


class ToChannels(nn.Module):
    """1x1 modulated convolution without demodulation: the ToRGB and the ToMask head.

    The styles are divided by sqrt(I), as the weights of the other layers are in effect.
    """

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, *, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = Linear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def reset(self, generator: torch.Generator) -> None:
        """Draw the weight (the affine layer draws its own)."""
        with torch.no_grad():
            self.weight.normal_(generator=generator)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x (N, I, H, W), w (N, W) -> (N, O, H, W)."""
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = pointwise(x, self.weight, styles, self.bias)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


def minibatch_std(x: Tensor, group: int) -> Tensor:
    """Append one channel: the mean standard deviation over groups of ``group`` samples.

    (N, C, H, W) -> (N, C+1, H, W). A batch that ``group`` does not divide is split into groups of
    the largest divisor of N that is not above it, so any batch size works.

    Source: Karras et al. 2018, section 3.
    """
    batch, _, height, width = x.shape
    size = max(d for d in range(1, min(group, batch) + 1) if batch % d == 0)
    # At least single precision: squares of half-precision features overflow.
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    y = rearrange(exact, "(g m) c h w -> g m c h w", g=size)
    # The small constant keeps the derivative of the square root finite in groups of one.
    deviation = (y.var(dim=0, unbiased=False) + 1e-8).sqrt()
    feature = deviation.mean(dim=(1, 2, 3)).to(x.dtype)
    planes = repeat(feature, "m -> (g m) 1 h w", g=size, h=height, w=width)
    return torch.cat([x, planes], dim=1)


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights of a network in module order from one generator."""
    for module in network.modules():
        if isinstance(module, Linear | Conv2d | ModulatedLayer | ToChannels):
            module.reset(generator)

"""Modulate, convolve, demodulate: the convolution whose weights depend on the sample."""

from __future__ import annotations

import torch
from torch import Tensor

from defectgen.errors import ConfigError
from defectgen.ops.bias_act import bias_act
from defectgen.ops.convolution import conv2d, conv_transpose2d
from defectgen.ops.upfirdn2d import binomial_filter, upfirdn2d

#: Keeps the demodulation factor finite where all weights of an output channel vanish.
EPSILON = 1e-8


def energy(weight: Tensor) -> Tensor:
    """sum_kk weight_oikk^2, (O, I): all that demodulation has to know of the weights."""
    return weight.square().sum(dim=(2, 3))


def demodulation(energies: Tensor, styles: Tensor) -> Tensor:
    """d_no = 1 / sqrt(sum_ikk (weight_oikk * styles_ni)^2 + 1e-8), (N, O) float32 or float64.

    Args:
        energies: (O, I), see `energy`.
        styles: (N, I).

    Source: StyleGAN2, equation 3.
    """
    return (styles.square() @ energies.t() + EPSILON).rsqrt()


def modulated_conv2d(
    x: Tensor,  # (N, I, H, W)
    weight: Tensor,  # (O, I, K, K)
    styles: Tensor,  # (N, I)
    *,
    demodulate: bool = True,
    up: int = 1,
) -> Tensor:
    """y_n = conv(x_n, weight * styles_n [* d_n]), optionally at twice the resolution.

    Computed as scale, shared convolution, scale, which is the same map as one convolution per
    sample with its own weights. With ``up=2`` the convolution is a stride-2 transposed one
    followed by the [1, 3, 3, 1] low-pass.

    Args:
        x: (N, I, H, W) floating tensor.
        weight: (O, I, K, K), K odd.
        styles: (N, I), one factor per sample and input channel.
        demodulate: multiply output channel o by d_no of `demodulation`; a caller that fuses
            that factor into `bias_act` passes False.
        up: 1 or 2.

    Returns:
        (N, O, H*up, W*up), dtype of ``x``.

    Raises:
        ConfigError: if the shapes do not fit together or ``up`` is neither 1 nor 2.

    Source: StyleGAN2, equations 1 to 3.
    """
    outs, ins, size, _ = weight.shape
    if x.shape[1] != ins or styles.shape != (x.shape[0], ins):
        raise ConfigError(
            f"styles: one factor per sample and input channel {(x.shape[0], ins)} for x with "
            f"{ins} channels; got styles {tuple(styles.shape)}, x {tuple(x.shape)}; check both."
        )
    if up not in (1, 2):
        raise ConfigError(f"up: 1 or 2; got {up}; call twice for more.")
    if x.dtype == torch.float16 and demodulate:
        weight, styles = guard_overflow(weight, styles)
    y = _reference(x, weight, styles, up)
    if demodulate:
        y = y * demodulation(energy(weight), styles).to(y.dtype).reshape(-1, outs, 1, 1)
    return y


def guard_overflow(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Scale weights and styles so that half precision cannot overflow.

    Each output channel of ``weight`` is divided by its largest magnitude times sqrt(fan in), each
    row of ``styles`` by its largest magnitude. Demodulation cancels both exactly, up to epsilon.
    """
    fan_in = weight[0].numel()
    peak = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(EPSILON)
    largest = styles.abs().amax(dim=1, keepdim=True).clamp_min(EPSILON)
    return weight / (peak * fan_in**0.5), styles / largest


def _reference(x: Tensor, weight: Tensor, styles: Tensor, up: int) -> Tensor:
    """Scale, shared convolution: never a convolution per sample, and never a grouped one."""
    if weight.shape[2] == 1 and up == 1:
        return pointwise(x, weight, styles)
    y = convolve(bias_act(x, scale=styles), kernel_for(weight, x.dtype, up), up)
    if up == 1:
        return y
    return upfirdn2d(y, binomial_filter(y.device, y.dtype), pad=up_padding(weight), gain=4.0)


def kernel_for(weight: Tensor, dtype: torch.dtype, up: int) -> Tensor:
    """The weights (O, I, K, K) as `convolve` wants them."""
    if up == 2:
        # A transposed convolution with this kernel equals zero insertion followed by the ordinary
        # convolution with the kernel turned by 180 degrees; turning it here keeps both one map.
        weight = weight.flip(2, 3).transpose(0, 1)
    return weight.to(dtype, memory_format=torch.channels_last)


def convolve(x: Tensor, kernel: Tensor, up: int) -> Tensor:
    """The convolution of modulated features; with ``up=2`` still to be filtered.

    Then it has 2H - 1 + K rows and as many columns more, of which the last are zeros: with 3x3
    kernels an even number, which is up to four times as fast on a CPU as an odd one.
    """
    if up == 1:
        return conv2d(x, kernel, padding=kernel.shape[2] // 2)
    return conv_transpose2d(x, kernel, stride=2, extra=1)


def up_padding(weight: Tensor) -> tuple[int, int, int, int]:
    """Pads of the low-pass after `convolve`, so that 2H rows and columns come out."""
    # 2H - 1 + K rows go in, the low-pass takes 3 of them.
    total = 4 - weight.shape[2]
    before = (total + 2) // 2
    return before, total - before, before, total - before


def pointwise(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1: one small matrix per sample, so that the features are read once and not scaled first.

    x (N, I, H, W), weight (O, I, 1, 1), styles (N, I), bias (O,) -> (N, O, H, W), channels last.
    """
    batch, channels, height, width = x.shape
    own = (weight.flatten(1) * styles.unsqueeze(1)).to(x.dtype).mT  # (N, I, O)
    pixels = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    if bias is None:
        y = torch.bmm(pixels, own)
    else:
        y = torch.baddbmm(bias.to(x.dtype)[None, None], pixels, own)
    return y.reshape(batch, height, width, weight.shape[0]).permute(0, 3, 1, 2)

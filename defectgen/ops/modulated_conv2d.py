"""Modulate, convolve, demodulate: the convolution whose weights depend on the sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.errors import ConfigError
from defectgen.ops.upfirdn2d import binomial_filter, upfirdn2d

#: Keeps the demodulation factor finite where all weights of an output channel vanish.
EPSILON = 1e-8


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """d_no = 1 / sqrt(sum_ikk (weight_oikk * styles_ni)^2 + 1e-8), (N, O) float32 or float64.

    Args:
        weight: (O, I, K, K).
        styles: (N, I).

    Source: StyleGAN2, equation 3.
    """
    energy = weight.square().sum(dim=(2, 3))  # (O, I)
    return (styles.square() @ energy.t() + EPSILON).rsqrt()


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
        demodulate: multiply output channel o by d_no of :func:`demodulation`; a caller that fuses
            that factor into :func:`~defectgen.ops.bias_act.bias_act` passes False.
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
        y = y * demodulation(weight, styles).to(y.dtype).reshape(-1, outs, 1, 1)
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
    x = x * styles.to(x.dtype).reshape(*styles.shape, 1, 1)
    kernel = weight.to(x.dtype)
    if up == 1:
        return F.conv2d(x, kernel, padding=weight.shape[2] // 2)
    # A transposed convolution with this kernel equals zero insertion followed by the ordinary
    # convolution with the kernel turned by 180 degrees; turning it here keeps both paths one map.
    y = F.conv_transpose2d(x, kernel.flip(2, 3).transpose(0, 1), stride=2)
    # The transposed convolution returns 2H - 2 + K rows, the low-pass takes 3: pad to 2H.
    total = 5 - weight.shape[2]
    before, after = (total + 1) // 2, total // 2
    taps = binomial_filter(y.device, y.dtype)
    return upfirdn2d(y, taps, pad=(before, after, before, after), gain=4.0)

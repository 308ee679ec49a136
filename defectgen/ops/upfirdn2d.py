"""Pad, upsample, FIR-filter and downsample: every change of resolution in the networks."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.errors import ConfigError

#: The low-pass filter of StyleGAN2, as one axis of the separable kernel, normalized to sum 1.
BINOMIAL_TAPS = (1.0, 3.0, 3.0, 1.0)


@lru_cache(maxsize=32)
def binomial_filter(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return [1, 3, 3, 1] / 8 on this device; shared, never to be written to."""
    with torch.inference_mode(False):
        taps = torch.tensor(BINOMIAL_TAPS, dtype=torch.float64)
        return (taps / taps.sum()).to(device=device, dtype=dtype)


def upfirdn2d(
    x: Tensor,  # (N, C, H, W)
    f: Tensor,  # (K,)
    *,
    up: int = 1,
    down: int = 1,
    pad: tuple[int, int, int, int] = (0, 0, 0, 0),  # left, right, top, bottom
    gain: float = 1.0,
    flip: bool = False,
) -> Tensor:
    """Insert zeros, pad with zeros, convolve with a separable filter, keep every ``down``-th pixel.

    1. ``up - 1`` zeros follow every pixel in both directions.
    2. The result is zero-padded by ``pad`` (left, right, top, bottom), or cropped where negative.
    3. It is convolved with the outer product of ``f`` with itself, times ``gain``
       (a true convolution; ``flip=True`` correlates instead).
    4. Every ``down``-th pixel is kept.

    Args:
        x: (N, C, H, W) floating tensor.
        f: (K,) taps of one axis.
        up: whole factor >= 1.
        down: whole factor >= 1.
        pad: pixels, counted after zero insertion.
        gain: factor on the whole result.
        flip: correlate instead of convolve.

    Returns:
        (N, C, (H*up + top + bottom - K) // down + 1, likewise W), dtype of ``x``.

    Raises:
        ConfigError: if ``f`` has not one dimension or a factor is below 1.

    Source: StyleGAN2, appendix B; the definition is the usual one of multirate signal processing.
    """
    if f.ndim != 1:
        raise ConfigError(
            f"f: a one-dimensional filter; got shape {tuple(f.shape)}; pass one axis."
        )
    if up < 1 or down < 1:
        raise ConfigError(f"up, down: whole factors >= 1; got {up}, {down}; pass 1 to switch off.")
    return _reference(x, f, up, down, pad, gain, flip)


def _reference(
    x: Tensor,
    f: Tensor,
    up: int,
    down: int,
    pad: tuple[int, int, int, int],
    gain: float,
    flip: bool,
) -> Tensor:
    batch, channels, height, width = x.shape
    if up > 1:
        x = x.reshape(batch, channels, height, 1, width, 1)
        x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(batch, channels, height * up, width * up)
    # Equal pads on all sides are left to the convolution, which needs no copy for them.
    even = pad[0] if pad[0] >= 0 and len(set(pad)) == 1 else 0
    if any(pad) and not even:
        x = F.pad(x, pad)
    taps = (f if flip else f.flip(0)).to(x.dtype)
    kernel = torch.outer(taps, taps) * gain
    kernel = kernel.expand(channels, 1, *kernel.shape)
    if x.numel() == 0 or channels == 0:
        size = [(side + 2 * even - len(f)) // down + 1 for side in x.shape[2:]]
        return x.new_zeros(batch, channels, *size)
    return F.conv2d(x, kernel, stride=down, padding=even, groups=channels)


def upsample2d(x: Tensor, f: Tensor | None = None) -> Tensor:
    """Double height and width: zero insertion, low-pass, gain 4; (N, C, H, W) -> (N, C, 2H, 2W)."""
    f = binomial_filter(x.device, x.dtype) if f is None else f
    before, after = len(f) // 2, (len(f) - 1) // 2
    return upfirdn2d(x, f, up=2, pad=(before, after, before, after), gain=4.0)


def downsample2d(x: Tensor, f: Tensor | None = None) -> Tensor:
    """Halve height and width: low-pass, every second pixel; (N, C, H, W) -> (N, C, H/2, W/2)."""
    f = binomial_filter(x.device, x.dtype) if f is None else f
    before, after = (len(f) - 1) // 2, (len(f) - 2) // 2
    return upfirdn2d(x, f, down=2, pad=(before, after, before, after))

"""Pad, upsample, FIR-filter and downsample: every change of resolution in the networks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.errors import ConfigError
from defectgen.ops import _dispatch
from defectgen.ops._library import (
    below_autograd,
    define,
    differentiate,
    exact,
    like,
    remembered,
    small,
)
from defectgen.ops.bias_act import GAINS, SLOPES, _forward_kernel

#: The low-pass filter of StyleGAN2, as one axis of the separable kernel, normalized to sum 1.
BINOMIAL_TAPS = (1.0, 3.0, 3.0, 1.0)


@remembered
def binomial_filter(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return [1, 3, 3, 1] / 8 on this device; shared, never to be written to."""
    with torch.inference_mode(False):
        taps = torch.tensor(BINOMIAL_TAPS, dtype=torch.float64, device="cpu")
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
    if gain < 0:  # each axis takes the root of the gain
        return -upfirdn2d(x, f, up=up, down=down, pad=pad, gain=-gain, flip=flip)
    # The filter itself is data everywhere in this library; its gradient is the reference's.
    native = not f.requires_grad and 0 not in x.shape[2:] and _dispatch.chosen("upfirdn2d", x)
    if native:
        return _op(x, _turned(f, x, gain, flip), up, down, *pad)  # type: ignore[no-any-return]
    return _reference(x, _turned(f, x, gain, flip), up, down, *pad)


def _turned(f: Tensor, x: Tensor, gain: float, flip: bool) -> Tensor:
    """Taps in the order of a correlation, each axis with the root of the gain."""
    taps = f.to(exact(x.dtype))
    taps = taps if flip else taps.flip(0)
    return taps if gain == 1.0 else taps * gain**0.5


def _reference(
    x: Tensor,
    taps: Tensor,
    up: int,
    down: int,
    left: int,
    right: int,
    top: int,
    bottom: int,
) -> Tensor:
    batch, channels, height, width = x.shape
    if up > 1:
        x = x.reshape(batch, channels, height, 1, width, 1)
        x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(batch, channels, height * up, width * up)
    # Equal pads on all sides are left to the convolution, which needs no copy for them.
    pad = (left, right, top, bottom)
    even = left if left >= 0 and len(set(pad)) == 1 else 0
    if any(pad) and not even:
        # First what is added: what is cropped may be more than there was.
        x = F.pad(x, [max(side, 0) for side in pad])
        x = F.pad(x, [min(side, 0) for side in pad]) if min(pad) < 0 else x
    kernel = torch.outer(taps, taps).to(x.dtype)
    kernel = kernel.expand(channels, 1, *kernel.shape)
    # An empty batch goes through the convolution, which keeps its graph.
    if channels == 0 or (batch and x.numel() == 0):
        size = [(side + 2 * even - len(taps)) // down + 1 for side in x.shape[2:]]
        return x.new_zeros(batch, channels, *size) + x.sum()  # zero, with a graph
    return F.conv2d(x, kernel, stride=down, padding=even, groups=channels)


# -- the op: linear in x, so its gradient is itself with up and down exchanged ---------------------


def _kernel(x: Tensor, *rest: Any) -> Tensor:
    return like(_reference(x, *rest), x)


def _fake(
    x: Tensor, taps: Tensor, up: int, down: int, left: int, right: int, top: int, bottom: int
) -> Tensor:
    n, c, height, width = x.shape
    sides = (height * up + top + bottom, width * up + left + right)
    high, wide = ((side - len(taps)) // down + 1 for side in sides)
    return like(x.new_empty(n, c, high, wide), x)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, taps, *ctx.numbers = inputs
    ctx.size = x.shape[2:]
    ctx.save_for_backward(taps)


def _gradients(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
    if dy is None:
        return (None,) * 8
    (taps,) = ctx.saved_tensors
    up, down, left, _, top, _ = ctx.numbers
    before, count = [len(taps) - 1 - p for p in (left, top)], len(taps)
    sides = zip(reversed(ctx.size), reversed(dy.shape[2:]), before, strict=True)
    after = [(to - 1) * up + count - of * down - p for to, of, p in sides]
    pads = before[0], after[0], before[1], after[1]
    return _op(dy, taps.flip(0), down, up, *pads), *(None,) * 7


_NUMBERS = "int up, int down, int left, int right, int top, int bottom"
_plain = define(f"upfirdn2d(Tensor x, Tensor taps, {_NUMBERS}) -> Tensor", _kernel, _fake)
_op = differentiate(_plain, _gradients, _keep)


# -- followed by bias_act, for inference -----------------------------------------------------------


def _then_bias_act(x: Tensor, *rest: Any) -> Tensor:
    return _forward_kernel(_kernel(x, *rest[:7]), *rest[7:])


_fused_op = define(
    f"upfirdn2d_bias_act(Tensor x, Tensor taps, {_NUMBERS}, Tensor? scale, Tensor? noise, "
    "Tensor? bias, Tensor? post, float slope, float gain, float clamp) -> Tensor",
    _then_bias_act,
    lambda x, *rest: _fake(x, *rest[:7]),
)


def upfirdn2d_bias_act(
    x: Tensor,  # (N, C, H, W)
    f: Tensor,  # (K,)
    *,
    pad: tuple[int, int, int, int],
    filter_gain: float,
    scale: Tensor | None = None,  # (N, C)
    noise: Tensor | None = None,  # (N, 1, H', W')
    bias: Tensor | None = None,  # (C,)
    post: Tensor | None = None,  # (N, C)
    act: str = "linear",
    clamp: float | None = None,
) -> Tensor:
    """bias_act(upfirdn2d(x)) * post in one pass over memory, without gradients.

    The end of an up-convolution: filter, demodulation, noise, bias, activation, and with ``post``
    the modulation of the next layer. Arguments as in `upfirdn2d` and
    `bias_act`; shapes are those that the layers give.
    """
    end = (*(small(t, x) for t in (scale, noise, bias, post)), SLOPES[act], GAINS[act])
    limit = -1.0 if clamp is None else clamp
    taps = _turned(f, x, filter_gain, False)
    if _dispatch.chosen("upfirdn2d", x):
        return below_autograd(_fused_op.default, x, taps, 1, 1, *pad, *end, limit)  # type: ignore[no-any-return]
    return _then_bias_act(x, taps, 1, 1, *pad, *end, limit)


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

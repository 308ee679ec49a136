"""Scale, noise, bias, activation, gain and clamp in one pass over memory."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.errors import ConfigError
from defectgen.ops import _dispatch, _library
from defectgen.ops._library import below_autograd, define, differentiate, exact, needs_graph

#: Default gain: leaky ReLU halves the variance, sqrt(2) gives it back (He et al. 2015).
GAINS = {"linear": 1.0, "lrelu": math.sqrt(2.0)}
SLOPE = 0.2
#: Slope of each activation for negative input.
SLOPES = {"linear": 1.0, "lrelu": SLOPE}


def bias_act(
    x: Tensor,  # (N, C, *)
    bias: Tensor | None = None,  # (C,)
    *,
    scale: Tensor | None = None,  # (N, C)
    noise: Tensor | None = None,  # (N, 1, *)
    post: Tensor | None = None,  # (N, C)
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """y = clamp(act(x * scale + noise + bias) * gain) * post, differentiable to second order.

    Args:
        x: (N, C, *) floating tensor.
        bias: (C,), added per channel.
        scale: (N, C), multiplied per sample and channel (the demodulation factor).
        noise: (N, 1, *), already multiplied by its strength.
        post: (N, C), the modulation of the next layer; one pass less where no graph is built.
        act: "linear" or "lrelu" (slope 0.2).
        gain: positive factor after the activation; None takes 1 for linear and sqrt(2) for lrelu.
        clamp: the result is limited to [-clamp, clamp]; None does not limit it.

    Returns:
        Tensor of the shape and dtype of ``x``; ``x`` itself where nothing is to be done.

    Raises:
        ConfigError: for an unknown activation, a gain or clamp that is not positive, or a bias,
            scale or noise of the wrong shape.

    Source: StyleGAN2 (Karras et al. 2020), section 2 and appendix B.
    """
    if act not in GAINS:
        raise ConfigError(f"act: one of {', '.join(GAINS)}; got {act!r}; choose one of these.")
    if gain is not None and gain <= 0:
        raise ConfigError(f"gain: positive; got {gain}; change the sign of the input instead.")
    if clamp is not None and clamp < 0:
        raise ConfigError(f"clamp: not negative; got {clamp}; pass None for no limit.")
    batch, channels, *pixels = x.shape
    rows = batch, channels
    shapes = {"bias": (channels,), "scale": rows, "noise": (batch, 1, *pixels), "post": rows}
    for (name, shape), given in zip(shapes.items(), (bias, scale, noise, post), strict=True):
        if given is not None and given.shape != shape:
            raise ConfigError(
                f"{name}: of shape {shape} beside x of {tuple(x.shape)}; got "
                f"{tuple(given.shape)}; reshape it."
            )
    gain = GAINS[act] if gain is None else gain
    # The limit as features have it: gradients tell from it whether a result was clamped.
    curve = SLOPES[act], gain, -1.0 if clamp is None else _library.rounded(clamp, x.dtype)
    if curve == (1.0, 1.0, -1.0) and bias is scale is noise is post is None:
        return x
    if post is not None and needs_graph(x, bias, scale, noise, post):
        return bias_act(_call(x, scale, noise, bias, None, curve), scale=post)
    return _call(x, scale, noise, bias, post, curve)


def _call(
    x: Tensor,
    scale: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    post: Tensor | None,
    curve: tuple[float, float, float],
) -> Tensor:
    if _dispatch.chosen("bias_act", x):
        few = (_library.small(values, x) for values in (scale, noise, bias, post))
        return _forward(x, *few, *curve)  # type: ignore[no-any-return]
    return _reference(x, scale, noise, bias, post, *curve)


def _reference(
    x: Tensor,
    scale: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    post: Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> Tensor:
    # A positive gain commutes with both activations, so it goes into the small tensors: on a CPU
    # this op costs what its passes over memory cost.
    factor = None if scale is None else _over(scale, x) * gain
    plane = None if noise is None else noise.to(x.dtype) * gain
    if factor is not None and plane is not None:
        y = torch.addcmul(plane, x, factor)
    else:
        y = x * (gain if factor is None else factor) if factor is not None or gain != 1.0 else x
        y = y if plane is None else y + plane
    if bias is not None:
        level = _over(bias[None], x) * gain
        alone = y is not x and not torch.is_grad_enabled() and not _library.transformed()
        y = y.add_(level) if alone else y + level
    if slope != 1.0:
        y = F.leaky_relu(y, slope)
    y = y if clamp < 0 else y.clamp(-clamp, clamp)
    return y if post is None else y * _over(post, x)


def _over(values: Tensor, x: Tensor) -> Tensor:
    """(N, C) -> (N, C, 1, ...), in the dtype of x and with its number of dimensions."""
    return values.to(x.dtype).reshape(*values.shape, *(1,) * (x.ndim - 2))


# -- the op and its derivatives --------------------------------------------------------------------
#
# With k = curve'(u), read off y since the gain is positive, and du = dy * k:
#   backward:  dx = du * scale, sums = sum_p du, dots = sum_p du * x, dnoise = sum_c du
#   tangent:   k * (a * scale + x * dscale + dnoise + dbias), the other way round
# Backward is bilinear in dy and (scale, x), so its own gradients are one tangent and one backward.


def _forward_kernel(x: Tensor, *rest: Any) -> Tensor:
    y = _reference(x, *rest)
    return _library.like(y.clone() if y is x else y, x)


def _slope_at(y: Tensor, slope: float, gain: float, clamp: float) -> Tensor:
    """Derivative of the curve where its value is y; at the clamp it is zero."""
    # Tensors and not numbers, which torch.where would take for single precision.
    above, below = (y.new_full((), v, dtype=exact(y.dtype)) for v in (gain, slope * gain))
    k = torch.where(y > 0, above, below)
    return k if clamp < 0 else k * (y.abs() < clamp)


def _tangent_kernel(
    y: Tensor,
    a: Tensor | None,
    scale: Tensor | None,
    x: Tensor | None,
    dscale: Tensor | None,
    dnoise: Tensor | None,
    dbias: Tensor | None,
    *curve: float,
) -> Tensor:
    wide = y.to(exact(y.dtype))
    total = torch.zeros_like(wide)
    if a is not None:
        total = total + (a if scale is None else a * _over(scale, wide))
    if dscale is not None and x is not None:
        total = total + x * _over(dscale, wide)
    if dnoise is not None:
        total = total + dnoise.reshape(y.shape[0], 1, *y.shape[2:])
    if dbias is not None:
        total = total + _over(dbias, wide)
    return _library.like((_slope_at(y, *curve) * total).to(y.dtype), y)


def _backward_kernel(
    dy: Tensor,
    y: Tensor,
    x: Tensor | None,
    scale: Tensor | None,
    need_sums: bool,
    need_noise: bool,
    *curve: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    du = dy * _slope_at(y, *curve)
    dx = _library.like((du if scale is None else du * _over(scale, du)).to(y.dtype), y)
    pixels = math.prod(y.shape[2:])
    rows = (*y.shape[:2], pixels)
    empty = du.new_zeros(0, y.shape[1])
    sums = du.reshape(rows).sum(2) if need_sums or x is not None else empty
    dots = empty.clone() if x is None else (du * x).reshape(rows).sum(2)
    noise = du.sum(1).reshape(-1, pixels) if need_noise else du.new_zeros(0, pixels)
    return dx, sums, dots, noise


def _backward_fake(
    dy: Tensor,
    y: Tensor,
    x: Tensor | None,
    scale: Tensor | None,
    need_sums: bool,
    need_noise: bool,
    *curve: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, c, *rest = y.shape
    numbers = y.new_empty(0, dtype=exact(y.dtype))
    return (
        _library.like(torch.empty_like(y), y),
        numbers.new_empty(n if need_sums or x is not None else 0, c),
        numbers.new_empty(0 if x is None else n, c),
        numbers.new_empty(n if need_noise else 0, math.prod(rest)),
    )


_SHAPE = "float slope, float gain, float clamp"
_forward_op = define(
    f"bias_act(Tensor x, Tensor? scale, Tensor? noise, Tensor? bias, Tensor? post, {_SHAPE}) "
    "-> Tensor",
    _forward_kernel,
    lambda x, *rest: _library.like(torch.empty_like(x), x),
)
_tangent_op = define(
    "bias_act_tangent(Tensor y, Tensor? a, Tensor? scale, Tensor? x, Tensor? dscale, "
    f"Tensor? dnoise, Tensor? dbias, {_SHAPE}) -> Tensor",
    _tangent_kernel,
    lambda y, *rest: _library.like(torch.empty_like(y), y),
)
_backward_op = define(
    "bias_act_backward(Tensor dy, Tensor y, Tensor? x, Tensor? scale, bool need_sums, "
    f"bool need_noise, {_SHAPE}) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward_kernel,
    _backward_fake,
)


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, noise, bias, post, *shape = inputs
    if post is not None:
        raise NotImplementedError("bias_act: post is for inference; multiply afterwards instead.")
    need = ctx.needs_input_grad
    # The value of x matters to the gradient of its scale alone.
    ctx.save_for_backward(output, x if need[1] else None, scale)
    ctx.noise_shape = None if noise is None else noise.shape
    ctx.wants = need[2], need[3]
    ctx.curve = shape


def _forward_gradients(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
    if dy is None:
        return (None,) * 8
    y, x, scale = ctx.saved_tensors
    for_noise, for_bias = ctx.wants
    dx, sums, dots, noise = _backward(dy, y, x, scale, for_bias, for_noise, *ctx.curve)
    return (
        dx,
        None if x is None else dots,
        noise.reshape(ctx.noise_shape) if for_noise else None,
        sums.sum(0) if for_bias else None,
        *(None,) * 4,
    )


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, y, x, scale, sums, noise, *shape = inputs
    ctx.save_for_backward(dy, y, x, scale)
    ctx.gave = sums or x is not None, x is not None, noise
    ctx.curve = shape


def _backward_gradients(
    ctx: Any,
    g_dx: Tensor | None,
    g_sums: Tensor | None,
    g_dots: Tensor | None,
    g_noise: Tensor | None,
) -> tuple[Any, ...]:
    # A third derivative, or a graph of this one: the references of both can be differentiated on.
    more = torch.is_grad_enabled()
    tangent = _tangent_kernel if more else partial(below_autograd, _tangent_op.default)
    backward = _backward_kernel if more else _backward
    dy, y, x, scale = ctx.saved_tensors
    to_dy, _, to_x, to_scale = ctx.needs_input_grad[:4]
    # What was not asked for is empty, and so is its gradient.
    given = zip((g_sums, g_dots, g_noise), ctx.gave, strict=True)
    g_sums, g_dots, g_noise = (g if gave else None for g, gave in given)
    g_y = None
    if to_dy:
        terms = g_dx, scale, x, g_dots, g_noise, g_sums
        g_y = tangent(y, *terms, *ctx.curve)
    g_x = g_scale = None
    to_x, to_scale = to_x and g_dots is not None, to_scale and g_dx is not None
    if to_x or to_scale:
        outer = g_dots if to_x else None
        g_x, _, dots, _ = backward(
            dy, y, g_dx if to_scale else None, outer, False, False, *ctx.curve
        )
        g_x, g_scale = g_x if to_x else None, dots if to_scale else None
    return g_y, None, g_x, g_scale, *(None,) * 5


_forward = differentiate(_forward_op, _forward_gradients, _keep_forward)
_backward = differentiate(_backward_op, _backward_gradients, _keep_backward)

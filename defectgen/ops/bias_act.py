"""Scale, noise, bias, activation, gain and clamp in one step."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.errors import ConfigError

#: Default gain: leaky ReLU halves the variance, sqrt(2) gives it back (He et al. 2015).
GAINS = {"linear": 1.0, "lrelu": math.sqrt(2.0)}
SLOPE = 0.2


def bias_act(
    x: Tensor,  # (N, C, *)
    bias: Tensor | None = None,  # (C,)
    *,
    scale: Tensor | None = None,  # (N, C)
    noise: Tensor | None = None,  # (N, 1, *)
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """y = clamp(act(x * scale + noise + bias) * gain), differentiable to second order.

    Args:
        x: (N, C, *) floating tensor.
        bias: (C,), added per channel.
        scale: (N, C), multiplied per sample and channel (the demodulation factor).
        noise: (N, 1, *), already multiplied by its strength.
        act: "linear" or "lrelu" (slope 0.2).
        gain: positive factor after the activation; None takes 1 for linear and sqrt(2) for lrelu.
        clamp: the result is limited to [-clamp, clamp]; None does not limit it.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Raises:
        ConfigError: for an unknown activation or a bias, scale or noise of the wrong shape.

    Source: StyleGAN2 (Karras et al. 2020), section 2 and appendix B.
    """
    if act not in GAINS:
        raise ConfigError(f"act: one of {', '.join(GAINS)}; got {act!r}; choose one of these.")
    if gain is not None and gain <= 0:
        raise ConfigError(f"gain: positive; got {gain}; change the sign of the input instead.")
    channels, batch = x.shape[1], x.shape[0]
    if bias is not None and bias.shape != (channels,):
        raise ConfigError(
            f"bias: one value per channel ({channels},); got {tuple(bias.shape)}; reshape it."
        )
    if scale is not None and scale.shape != (batch, channels):
        raise ConfigError(
            f"scale: one value per sample and channel {(batch, channels)}; "
            f"got {tuple(scale.shape)}; reshape it."
        )
    if noise is not None and noise.shape != (batch, 1, *x.shape[2:]):
        raise ConfigError(
            f"noise: one plane per sample {(batch, 1, *x.shape[2:])}; "
            f"got {tuple(noise.shape)}; reshape it."
        )
    return _reference(x, bias, scale, noise, act, GAINS[act] if gain is None else gain, clamp)


def _reference(
    x: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    act: str,
    gain: float,
    clamp: float | None,
) -> Tensor:
    # A positive gain commutes with both activations, so it goes into the small tensors: on a CPU
    # this op costs what its passes over memory cost.
    trailing = (1,) * (x.ndim - 2)
    small = None if scale is None else scale.to(x.dtype).reshape(*scale.shape, *trailing) * gain
    plane = None if noise is None else noise.to(x.dtype) * gain
    if small is not None and plane is not None:
        y = torch.addcmul(plane, x, small)
    else:
        y = x * (gain if small is None else small) if small is not None or gain != 1.0 else x
        y = y if plane is None else y + plane
    if bias is not None:
        level = bias.to(x.dtype).reshape(1, -1, *trailing) * gain
        y = y.add_(level) if y is not x and not torch.is_grad_enabled() else y + level
    if act == "lrelu":
        y = F.leaky_relu(y, SLOPE)
    return y if clamp is None else y.clamp(-clamp, clamp)

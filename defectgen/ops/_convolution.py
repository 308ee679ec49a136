"""Native 3x3 convolutions for processors on which they beat those of PyTorch.

Stride 1 and padding 1 by Winograd's minimal filtering (Lavin and Gray 2016, section 4). In float32:
F(4x4, 3x3) forward and back and F(3x3, 4x4) for the weights while networks learn, F(2x2, 3x3)
without a graph, for samples. In bfloat16: F(2x2, 3x3) and F(3x3, 2x2), whose transforms lose less,
multiplied in bfloat16; where the processor does not do that, in float32, and F(3x3, 4x4). The
weights of a stride as products of pixels, in float32 alone. ``convolution.py`` has the formulas.
Measured on two cores (``benchmarks/convolutions.py``); gradients of weights with few channels are
split into at most sixteen parts, so on many cores not all may work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from defectgen.ops import _dispatch
from defectgen.ops._library import below_autograd, define, layout

#: Features and weights; sums are always float32.
DTYPES = (torch.float32, torch.bfloat16)
#: With fewer pixels than this in a sample's smaller plane PyTorch is about as fast.
PIXELS = 64
#: Without a stride also with more pairs of channels than this for each of these pixels, for all of
#: their weights are transformed. Not pixels of a batch: a sample shall not change with others. But
#: weights are a sum over the batch.
PAIRS = 1024


def fewest_channels() -> int:
    """Below this many channels in or out PyTorch is about as fast, where that was measured."""
    return 16 if _dispatch.processor() == "AVX2" else 32


def chosen(x: Tensor, weight: torch.Size, pixels: int, *, sums: bool = False) -> bool:
    """Whether a convolution shall be computed here, as far as sizes and the processor tell.

    Args:
        x: (N, C, H, W).
        weight: shape of the weights.
        pixels: of a plane on the smaller side of the convolution, of one sample.
        sums: the gradient of the weights is meant.
    """
    if x.dtype not in DTYPES or x.device.type != "cpu" or weight[2:] != (3, 3):
        return False
    if min(weight[:2]) < fewest_channels() or pixels < PIXELS:
        return False
    if weight[0] * weight[1] > PAIRS * pixels * (x.shape[0] if sums else 1):
        return False
    return layout(x) is torch.channels_last and _dispatch.chosen("convolution", x)


def convolution(x: Tensor, weight: Tensor, adjoint: bool = False, *, local: bool = False) -> Tensor:
    """conv(x, weight) of stride 1 and padding 1, or its transpose.

    Args:
        x: (N, I, H, W) float32 or bfloat16.
        weight: (O, I, 3, 3), or (I, O, 3, 3) with ``adjoint``, of the same dtype.
        adjoint: the transpose, which takes gradients of outputs to those of inputs.
        local: no bit depends on a pixel that no tap reaches, so that two images which agree there
            go on to agree. Slower; in bfloat16 it is always so, whatever is given.

    Returns:
        (N, O, H, W), channels last. What is not finite stays so, and unless ``local`` may take the
        tiles of 4x4 pixels with it that it reaches. Finite numbers may overflow on the way though
        the result would not: transforms of an image are up to 27 times as large as its numbers,
        or four times if ``local``. In bfloat16 these transforms and those of the weights are
        rounded, so the error is about 2.5 times that of rounding the result, on white noise.
    """
    return below_autograd(_convolution_op.default, x, weight, adjoint, local)  # type: ignore[no-any-return]


def weight_gradient(x: Tensor, dy: Tensor, stride: int = 1) -> Tensor:
    """The gradient (O, I, 3, 3) of the weights of y = conv(x, weight).

    Args:
        x: (N, I, H, W) float32, or bfloat16 without a stride.
        dy: (N, O, H', W'), the gradient of y, of the same dtype.
        stride: 1 with padding 1, or another without padding.
    """
    if stride == 1:
        return below_autograd(_winograd_weights_op.default, x, dy)  # type: ignore[no-any-return]
    return below_autograd(_strided_weights_op.default, x, dy, stride)  # type: ignore[no-any-return]


def _convolution(x: Tensor, weight: Tensor, adjoint: bool, local: bool) -> Tensor:
    one = [1, 1]
    y = torch.ops.aten.convolution(x, weight, None, one, one, one, adjoint, [0, 0], 1)
    return y.contiguous(memory_format=torch.channels_last)  # type: ignore[no-any-return]


def _weights(x: Tensor, dy: Tensor, stride: int = 1) -> Tensor:
    like, padding = _empty_weights(x, dy), [1 if stride == 1 else 0] * 2
    more = (None, [stride] * 2, padding, [1, 1], False, [0, 0], 1, [False, True, False])
    dw: Tensor = torch.ops.aten.convolution_backward(dy, x, like, *more)[1]
    return dw.contiguous(memory_format=torch.channels_last)


def _empty(x: Tensor, weight: Tensor, adjoint: bool, local: bool) -> Tensor:
    y = x.new_empty(x.shape[0], weight.shape[1 if adjoint else 0], *x.shape[2:])
    return y.to(memory_format=torch.channels_last)


def _empty_weights(x: Tensor, dy: Tensor, stride: int = 1) -> Tensor:
    dw = x.new_empty(dy.shape[1], x.shape[1], 3, 3)
    return dw.to(memory_format=torch.channels_last)


_convolution_op = define(
    "winograd(Tensor x, Tensor weight, bool adjoint, bool local) -> Tensor", _convolution, _empty
)
_winograd_weights_op = define(
    "winograd_weights(Tensor x, Tensor dy) -> Tensor", _weights, _empty_weights
)
_strided_weights_op = define(
    "strided_weights(Tensor x, Tensor dy, int stride) -> Tensor", _weights, _empty_weights
)

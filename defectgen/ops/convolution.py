"""Convolution whose gradient of the gradient costs what the gradient costs.

PyTorch differentiates a convolution twice through convolutions with kernels as large as the image.
But the three bilinear maps here are closed under differentiation: each one's gradients are the two
others, so the second derivative is made of the same fast kernels as the first.

    forward  y  = C(x, w)           a convolution, or its transpose
    adjoint  dx = C'(dy, w)         the transpose of C
    weights  dw = W(x, dy)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.ops import _convolution
from defectgen.ops._library import transformed


@dataclass(frozen=True)
class _Map:
    """A convolution or its transpose, with equal stride and padding in both directions."""

    stride: int
    padding: int
    transposed: bool
    extra: tuple[int, int] = (0, 0)  # rows and columns added to the output of a transposed one

    def numbers(self) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
        """Arguments as aten takes them."""
        two = [self.stride] * 2, [self.padding] * 2, [1, 1]
        return *two, self.transposed, list(self.extra), 1

    def adjoint(self, inner: Tensor, outer: Tensor, kernel: torch.Size) -> _Map:
        """The transpose of this map, from features like ``outer`` back to features like ``inner``.

        ``kernel``: shape of the weights.
        """
        if self.transposed:
            return _Map(self.stride, self.padding, False)
        high, wide = (
            inner.shape[k] - ((outer.shape[k] - 1) * self.stride - 2 * self.padding + kernel[k])
            for k in (2, 3)
        )
        return _Map(self.stride, self.padding, True, (high, wide))

    def run(self, x: Tensor, weight: Tensor, *, local: bool = False) -> Tensor:
        """y, without a graph; see `_convolution.convolution` for ``local``."""
        # What does not fit together is told by PyTorch.
        fits = x.dtype == weight.dtype and x.shape[1] == weight.shape[0 if self.transposed else 1]
        plain = fits and (self.stride, self.padding) == (1, 1)
        if plain and _convolution.chosen(x, weight.shape, x.shape[2] * x.shape[3]):
            return _convolution.convolution(x, weight, self.transposed, local=local)
        return torch.ops.aten.convolution(x, weight, None, *self.numbers())  # type: ignore[no-any-return]

    def gradients(
        self, x: Tensor, dy: Tensor, weight: Tensor, to_x: bool, to_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """dx and dw, without a graph, as far as they are wanted."""
        dx = dw = None
        inner, outer = (dy, x) if self.transposed else (x, dy)
        known = (self.stride, self.padding) in ((1, 1), (2, 0))
        known = known and x.dtype == dy.dtype == weight.dtype
        given = x, weight.shape, outer.shape[2] * outer.shape[3]
        # A stride leaves bfloat16 to PyTorch, which is near the matrix rate there.
        summed = known and (self.stride == 1 or x.dtype == torch.float32)
        if summed and to_weight and _convolution.chosen(*given, sums=True):
            dw = _convolution.weight_gradient(inner, outer, self.stride)
        if known and to_x and self.stride == 1 and _convolution.chosen(*given):
            dx = _convolution.convolution(dy, weight, not self.transposed)
        mask = [to_x and dx is None, to_weight and dw is None, False]
        if any(mask):
            both = torch.ops.aten.convolution_backward(dy, x, weight, None, *self.numbers(), mask)
            dx, dw = both[0] if mask[0] else dx, both[1] if mask[1] else dw
        return dx, dw


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """F.conv2d without bias: x (N, I, H, W), weight (O, I, K, K)."""
    return _convolve(x, weight, _Map(stride, padding, False))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1, extra: int = 0) -> Tensor:
    """F.conv_transpose2d without bias: x (N, I, H, W), weight (I, O, K, K).

    ``extra`` is PyTorch's output_padding: rows and columns more at the end.
    """
    return _convolve(x, weight, _Map(stride, 0, True, (extra, extra)))


def _convolve(x: Tensor, weight: Tensor, how: _Map) -> Tensor:
    if how.transposed and weight.shape[-1] == 1 and any(how.extra):
        # Nothing reaches the rows added here. With them oneDNN writes beyond its buffers when it
        # computes gradients of the weights (PyTorch 2.13, channels last, AVX2).
        high, wide = how.extra
        return F.pad(_convolve(x, weight, replace(how, extra=(0, 0))), (0, wide, 0, high))
    # A compiler has formulas of its own, and so have transforms.
    if torch.compiler.is_compiling() or transformed():
        return torch.ops.aten.convolution(x, weight, None, *how.numbers())  # type: ignore[no-any-return]
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return cast(Tensor, _Forward.apply(x, weight, how))  # type: ignore[no-untyped-call]
    # A sample and its good twin are equal to the bit wherever the defect does not reach.
    return how.run(x, weight, local=True)


def _wanted(ctx: Any, index: int) -> bool:
    """Whether the running backward pass asks for the gradient of this input.

    A penalty on gradients asks for those of the images alone, while the weights require theirs
    later on: without the question every first pass of R1 would compute weights for nothing.
    """
    if not ctx.needs_input_grad[index]:
        return False
    node = ctx.next_functions[index][0]
    if node is None:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        # A leaf under torch.autograd.grad: only the engine knows, so compute it.
        return True


class _Forward(torch.autograd.Function):
    """y = C(x, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, how: _Map) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return how.run(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, weight = ctx.saved_tensors
        back = ctx.how.adjoint(x, dy, weight.shape)
        to_x, to_weight = _wanted(ctx, 0), _wanted(ctx, 1)
        if not torch.is_grad_enabled():
            return *ctx.how.gradients(x, dy, weight, to_x, to_weight), None
        dx = _convolve(dy, weight, back) if to_x else None
        dw = None
        if to_weight:
            dw = _Weights.apply(x, dy, weight, ctx.how)  # type: ignore[no-untyped-call]
        return dx, dw, None


class _Weights(torch.autograd.Function):
    """dw = W(x, dy); ``like`` gives the shape and is no input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dy: Tensor, like: Tensor, how: _Map) -> Tensor:
        ctx.save_for_backward(x, dy)
        ctx.how, ctx.kernel = how, like.shape
        return cast(Tensor, how.gradients(x, dy, like, False, True)[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        x, dy = ctx.saved_tensors
        g = g.to(x.dtype)
        back = ctx.how.adjoint(x, dy, ctx.kernel)
        to_x = _convolve(dy, g, back) if _wanted(ctx, 0) else None
        to_dy = _convolve(x, g, ctx.how) if _wanted(ctx, 1) else None
        return to_x, to_dy, None, None

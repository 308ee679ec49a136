"""The operators as PyTorch knows them: ``torch.ops.defectgen.*``, with or without native kernels.

Each op is defined here in Python with its reference as the kernel of every device, so it exists
without a compiler. A native library that is loaded registers faster kernels for CPU or CUDA under
the same names; formulas of gradients are shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

_T = TypeVar("_T")
# Bits of the mantissa, the first one included.
_BITS = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}
NAMESPACE = "defectgen"
_library = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]


def define(
    signature: str, reference: Callable[..., Any], fake: Callable[..., Any]
) -> torch._ops.OpOverloadPacket:
    """Define an op, its kernel for every device, and its shapes for tracing.

    Args:
        signature: schema without namespace, such as "upfirdn2d(Tensor x) -> Tensor".
        reference: plain PyTorch; must return fresh tensors.
        fake: the same arguments, returns empty tensors of the right shapes.

    Returns:
        The op.
    """
    name = signature.partition("(")[0]
    _library.define(signature)  # type: ignore[no-untyped-call]
    _library.impl(name, reference, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    op: torch._ops.OpOverloadPacket = getattr(torch.ops.defectgen, name)
    return op


def differentiate(
    op: torch._ops.OpOverloadPacket,
    backward: Callable[..., Any],
    setup: Callable[..., None],
) -> Callable[..., Any]:
    """Give an op its formula of gradients.

    Args:
        op: from `define`.
        backward: (ctx, *gradients of the outputs or None) -> one gradient or None per input.
        setup: (ctx, inputs, output) -> None, keeps what ``backward`` needs.

    Returns:
        A shorter way to the same op for this package. PyTorch's own way to a formula written in
        Python costs four times as much per call, which counts where images are small.
    """
    default = op.default
    name = default._schema.name

    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        setup(ctx, inputs, output)

    torch.library.register_autograd(name, backward, setup_context=prepare, lib=_library)

    class Short(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = below_autograd(default, *inputs)
            prepare(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return backward(ctx, *gradients)

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return default(*inputs)
        if needs_graph(*inputs):
            return Short.apply(*inputs)  # type: ignore[no-untyped-call]
        return below_autograd(default, *inputs)

    return call


def below_autograd(op: Callable[..., Any], *inputs: Any) -> Any:
    """Call an op on inputs of which no graph is recorded, without asking for one."""
    if torch.compiler.is_compiling():
        return op(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*inputs)


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, which want plain PyTorch."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def remembered(function: Callable[..., _T]) -> Callable[..., _T]:
    """Like ``lru_cache``, but for tensors: what is made while something traces is not kept.

    A tensor made then belongs to the tracer, and would be handed to every call after it.
    """
    cached = lru_cache(maxsize=64)(function)

    @wraps(function)
    def call(*arguments: Any) -> _T:
        traced = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
        if traced or transformed():
            return function(*arguments)
        return cached(*arguments)

    return call


def needs_graph(*values: Any) -> bool:
    """Whether an op on these would be recorded for differentiation."""
    return torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in values
    )


def layout(x: Tensor) -> torch.memory_format:
    """Memory format of results of features that lie like these; native kernels have the same rule.

    Channels last if the channels of a pixel lie together and pixels in order, with or without gaps.
    """
    if x.ndim == 4:
        _, c, h, w = x.shape
        _, channel, row, column = x.stride()
        across = w == 1 or column >= c
        down = h == 1 or row >= w * (c if w == 1 else column)
        if c > 1 and (h > 1 or w > 1) and channel == 1 and across and down:
            return torch.channels_last
    return torch.contiguous_format


def like(result: Tensor, x: Tensor) -> Tensor:
    """The result, lying as results of ``x`` do."""
    return result.contiguous(memory_format=layout(x))


def rounded(value: float, dtype: torch.dtype) -> float:
    """The number of this dtype that is nearest to a number, as plain arithmetic for tracers."""
    bits = _BITS.get(dtype)
    if bits is None:
        return value
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**bits), exponent - bits)


def exact(dtype: torch.dtype) -> torch.dtype:
    """Dtype of sums and of small tensors beside features of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def small(value: Tensor | None, features: Tensor) -> Tensor | None:
    """A small tensor in the precision in which the native kernels want it."""
    return None if value is None else value.to(exact(features.dtype))

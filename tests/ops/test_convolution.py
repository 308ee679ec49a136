from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from defectgen.ops.convolution import conv2d, conv_transpose2d

#: stride, padding, kernel, height, width
PLAIN = [
    *((1, 1, 3, 5, 4), (1, 0, 1, 4, 6), (2, 0, 3, 7, 8), (2, 0, 3, 8, 7), (2, 1, 3, 6, 5)),
    *((2, 0, 1, 6, 5), (2, 0, 1, 5, 5)),
]


class Masks(TorchDispatchMode):
    """Notes which gradients are asked for of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.append(list(args[-1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("stride", "padding", "kernel", "height", "width"), PLAIN)
def test_values_and_both_derivatives(normal, stride, padding, kernel, height, width):
    x = normal(2, 3, height, width).requires_grad_()
    weight = normal(4, 3, kernel, kernel).requires_grad_()

    def ours(x, weight):
        return conv2d(x, weight, stride=stride, padding=padding)

    assert torch.equal(ours(x, weight), F.conv2d(x, weight, stride=stride, padding=padding))
    assert gradcheck(ours, (x, weight))
    assert gradgradcheck(ours, (x, weight))


@pytest.mark.parametrize("kernel", [3, 1])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_transposed(normal, extra, size, kernel):
    x, weight = normal(2, 3, *size).requires_grad_(), normal(3, 4, kernel, kernel).requires_grad_()

    def ours(x, weight):
        return conv_transpose2d(x, weight, stride=2, extra=extra)

    wanted = F.conv_transpose2d(x, weight, stride=2, output_padding=extra)
    assert torch.equal(ours(x, weight), wanted)
    assert gradcheck(ours, (x, weight))
    assert gradgradcheck(ours, (x, weight))


def test_the_second_derivative_is_that_of_pytorch(normal):
    x, weight = normal(2, 3, 6, 6).requires_grad_(), normal(4, 3, 3, 3).requires_grad_()
    found = []
    for convolve in (conv2d, lambda x, w, **k: F.conv2d(x, w, **k)):
        y = convolve(x, weight, padding=1).tanh()
        (first,) = grad(y.square().sum(), x, create_graph=True)
        found.append(grad(first.square().sum(), (x, weight)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_weights_that_are_not_asked_for_cost_nothing(normal):
    """The first pass of a penalty on gradients wants those of the images alone."""
    x, weight = normal(2, 3, 6, 6).requires_grad_(), normal(4, 3, 3, 3).requires_grad_()
    y = conv2d(x, 2 * weight, padding=1).sum()
    with Masks() as masks:
        grad(y, x, retain_graph=True)
    assert masks.seen == [[True, False, False]]
    with Masks() as masks:
        grad(y, (x, weight))
    assert masks.seen == [[True, True, False]]


def test_a_leaf_as_weight_still_gets_its_gradient(normal):
    x, weight = normal(2, 3, 6, 6), normal(4, 3, 3, 3).requires_grad_()
    (found,) = grad(conv2d(x, weight, padding=1).square().sum(), weight)
    (wanted,) = grad(F.conv2d(x, weight, padding=1).square().sum(), weight)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_sums_in_float32(dtype, normal):
    """1x1 over 4096 channels of ones: a sum in half precision would stop growing long before."""
    x = torch.ones(1, 4096, 1, 1, dtype=dtype)
    y = conv2d(x, torch.ones(1, 4096, 1, 1, dtype=dtype))
    assert float(y) == 4096


def test_empty_batch(normal):
    assert conv2d(normal(0, 3, 6, 6), normal(4, 3, 3, 3), padding=1).shape == (0, 4, 6, 6)
    shape = conv_transpose2d(normal(0, 3, 6, 6), normal(3, 4, 3, 3), stride=2, extra=1).shape
    assert shape == (0, 4, 14, 14)

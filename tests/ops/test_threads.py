"""Native kernels give the same bits with any number of threads, and every time."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import grad

from defectgen.ops import bias_act, masked_add, upfirdn2d
from defectgen.ops.upfirdn2d import upfirdn2d_bias_act

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
#: Large enough to be split, and odd, so that the parts differ.
SHAPE = (3, 17, 37, 35)
N, C, H, W = SHAPE

FUNCTIONS = {
    "bias_act": (
        lambda x, b, s, n: bias_act(x, b, scale=s, noise=n, act="lrelu", clamp=1.5),
        [(C,), (N, C), (N, 1, H, W)],
    ),
    "upfirdn2d, up": (lambda x: upfirdn2d(x, TAPS, up=2, pad=(2, 1, 2, 1)), []),
    "upfirdn2d, down": (lambda x: upfirdn2d(x, TAPS, down=2, pad=(1, 1, 1, 1)), []),
    "upfirdn2d_bias_act": (
        lambda x, b, s: upfirdn2d_bias_act(
            x, TAPS, pad=(2, 1, 2, 1), filter_gain=4.0, bias=b, scale=s
        ),
        [(C,), (N, C)],
    ),
    "masked_add": (
        lambda x, r, m: masked_add(x, r, m, mode="straight_through"),
        [SHAPE, (N, 1, H, W)],
    ),
}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def numbers(function, leaves, dy):
    """Result, gradients, and gradients of those."""
    y = function(*leaves)
    if not y.requires_grad:
        return [y]
    first = grad(y, leaves, dy, create_graph=True)
    total = sum(g.square().sum() for g in first if g.requires_grad)
    second = grad(total, leaves, allow_unused=True) if isinstance(total, torch.Tensor) else []
    return [t.detach() for t in (y, *first, *second) if t is not None]


@pytest.mark.parametrize(
    ("dtype", "last"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)]
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_bits(fused, normal, threads, name, dtype, last):
    same_bits(normal, threads, *FUNCTIONS[name], dtype, last)


def test_same_bits_of_few_channels_in_bfloat16(fused, normal, threads):
    function, _ = FUNCTIONS["bias_act"]
    shapes = [(32,), (N, 32), (N, 1, H, W)]
    same_bits(normal, threads, function, shapes, torch.bfloat16, True, (N, 32, H, W))


def same_bits(normal, threads, function, shapes, dtype, last, whole=SHAPE):
    """Results and gradients of features of the shape ``whole`` and what goes with them."""
    features = [normal(*s, dtype=dtype) for s in (whole, *shapes) if s == whole]
    small = [normal(*s, dtype=torch.float32) for s in shapes if s != whole]
    if last:
        features = [t.contiguous(memory_format=torch.channels_last) for t in features]
    leaves = [t.requires_grad_() for t in (*features, *small)]
    dy = torch.ones_like(function(*leaves)).cumsum(3) / 16
    threads(1)
    wanted = numbers(function, leaves, dy)
    for count in (2, 3, 2):
        threads(count)
        for got, one in zip(numbers(function, leaves, dy), wanted, strict=True):
            assert torch.equal(got, one)

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from defectgen.errors import ConfigError
from defectgen.ops import downsample2d, upfirdn2d, upsample2d
from defectgen.ops._library import remembered
from defectgen.ops.upfirdn2d import binomial_filter

pytestmark = pytest.mark.usefixtures("kernels")

TAPS = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
SKEW = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)  # neither even nor symmetric

CASES = [
    {},
    {"up": 2},
    {"down": 2},
    {"up": 3, "down": 2},
    {"up": 2, "pad": (2, 1, 2, 1), "gain": 4.0},
    {"pad": (3, 0, 1, 2)},
    {"pad": (-1, 2, 1, -2), "down": 2},
    {"up": 2, "pad": (1, -1, -2, 3), "down": 3, "gain": 0.3},
]


def spread(x, up, pad):
    """Zero insertion, then zero padding or cropping: the numpy picture that is filtered."""
    n, c, h, w = x.shape
    big = np.zeros((n, c, h * up, w * up))
    big[:, :, ::up, ::up] = x.numpy()
    left, right, top, bottom = pad
    grow = [max(p, 0) for p in pad]
    big = np.pad(big, ((0, 0), (0, 0), (grow[2], grow[3]), (grow[0], grow[1])))
    bottom_edge, right_edge = big.shape[2] + min(bottom, 0), big.shape[3] + min(right, 0)
    return big[:, :, max(-top, 0) : bottom_edge, max(-left, 0) : right_edge]


def by_hand(x, f, up=1, down=1, pad=(0, 0, 0, 0), gain=1.0, flip=False):
    """The four steps of the docstring as loops over output pixels and taps."""
    big, taps = spread(x, up, pad), f.tolist()
    k = len(taps)
    n, c, h, w = big.shape
    out = np.zeros((n, c, (h - k) // down + 1, (w - k) // down + 1))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            for a in range(k):
                for b in range(k):
                    row, column = (a, b) if flip else (k - 1 - a, k - 1 - b)
                    seen = big[:, :, i * down + row, j * down + column]
                    out[:, :, i, j] += gain * taps[a] * taps[b] * seen
    return out


def test_smoke():
    y = upfirdn2d(torch.ones(1, 1, 1, 1), torch.tensor([1.0, 2.0]), pad=(1, 1, 1, 1))
    assert y.tolist() == [[[[1, 2], [2, 4]]]]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("taps", [SKEW, TAPS], ids=["odd taps", "even taps"])
def test_values_are_those_of_the_four_steps(normal, same, taps, case, flip):
    x = normal(2, 2, 5, 7)
    same(upfirdn2d(x, taps, **case, flip=flip), by_hand(x, taps, **case, flip=flip))


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scipy(normal, same, case):
    signal = pytest.importorskip("scipy.signal")
    case = {"up": 1, "down": 1, "pad": (0, 0, 0, 0), "gain": 1.0, **case}
    x = normal(1, 1, 6, 9)
    big = spread(x, case["up"], case["pad"])[0, 0]
    kernel = case["gain"] * np.outer(SKEW, SKEW)
    wanted = signal.convolve2d(big, kernel, mode="valid")[:: case["down"], :: case["down"]]
    same(upfirdn2d(x, SKEW, **case), wanted[None, None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("op", [upsample2d, downsample2d])
def test_dtype_is_that_of_x(normal, same, op, dtype):
    x = normal(2, 3, 6, 4, dtype=dtype)
    y = op(x)
    assert y.dtype == dtype
    same(y, op(x.double()))


@pytest.mark.parametrize("case", CASES)
def test_memory_format_does_not_matter(normal, case):
    x = normal(2, 3, 5, 7)
    turned = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(upfirdn2d(turned, TAPS, **case), upfirdn2d(x, TAPS, **case))


@pytest.mark.parametrize("shape", [(0, 3, 4, 6), (2, 0, 4, 6)])
def test_nothing_goes_in_and_nothing_comes_out(shape):
    x = torch.zeros(shape)
    assert upsample2d(x).shape == (*shape[:2], 8, 12)
    assert downsample2d(x).shape == (*shape[:2], 2, 3)


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize(
    "case",
    [{"up": 2, "pad": (2, 1, 2, 1), "gain": 4.0}, {"pad": (1, 2, -1, 4), "down": 2, "flip": True}],
)
def test_gradients_to_image_and_filter(normal, check, case):
    inputs = [normal(1, 2, 3, 2).requires_grad_(), SKEW.clone().requires_grad_()]
    fast = check is gradgradcheck  # along random directions instead of every entry
    assert check(lambda x, f: upfirdn2d(x, f, **case), inputs, fast_mode=fast)


def test_the_filter_is_the_binomial_one_of_sum_one():
    f = binomial_filter(torch.device("cpu"), torch.float64)
    assert f.tolist() == [0.125, 0.375, 0.375, 0.125]


def test_the_shared_filter_survives_inference_mode(normal, monkeypatch):
    module = importlib.import_module("defectgen.ops.upfirdn2d")
    fresh = remembered(binomial_filter.__wrapped__)  # as if nothing had been called before
    monkeypatch.setattr(module, "binomial_filter", fresh)
    with torch.inference_mode():
        upsample2d(normal(1, 1, 4, 4))
    shared = fresh(torch.device("cpu"), torch.float64)
    assert not shared.is_inference()  # such a tensor cannot take part in a later graph
    x = normal(1, 1, 4, 4).requires_grad_()
    assert grad(upfirdn2d(x, shared).sum(), x)[0].any()


@pytest.mark.parametrize("taps", [TAPS, SKEW / SKEW.sum(), TAPS[1:3] / TAPS[1:3].sum()])
def test_resampling_is_up_or_down_filtering_of_twice_or_half_the_size(normal, same, taps):
    x, k = normal(1, 2, 6, 8), len(taps)
    around = (k // 2, (k - 1) // 2) * 2
    same(upsample2d(x, taps), by_hand(x, taps, up=2, pad=around, gain=4.0))
    around = ((k - 1) // 2, (k - 2) // 2) * 2
    same(downsample2d(x, taps), by_hand(x, taps, down=2, pad=around))
    assert upsample2d(x, taps).shape == (1, 2, 12, 16)
    assert downsample2d(x, taps).shape == (1, 2, 3, 4)


def test_a_plane_stays_a_plane_inside():
    x = torch.full((1, 1, 8, 8), 3.0)
    torch.testing.assert_close(upsample2d(x)[..., 2:-2, 2:-2], torch.full((1, 1, 12, 12), 3.0))
    torch.testing.assert_close(downsample2d(x)[..., 1:-1, 1:-1], torch.full((1, 1, 2, 2), 3.0))


def test_upsampling_does_not_shift(normal):
    ramp = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 8, 8)
    inside = upsample2d(ramp)[0, 0, 8, 2:-2]
    wanted = (torch.arange(16.0, dtype=torch.float64) + 0.5) / 2 - 0.5  # centers of the small cells
    torch.testing.assert_close(inside, wanted[2:-2])
    # Up and down are transposes of each other: neither moves the picture.
    x, y = normal(1, 2, 5, 6), normal(1, 2, 10, 12)
    up, down = (upsample2d(x) * y).sum(), (x * 4 * downsample2d(y)).sum()
    torch.testing.assert_close(up, down)


@pytest.mark.parametrize(
    ("taps", "factors", "message"),
    [
        (torch.ones(2, 2), {}, r"^f: a one-dimensional filter; got shape \(2, 2\)"),
        (TAPS, {"up": 0}, "^up, down: whole factors >= 1; got 0, 1"),
        (TAPS, {"down": -1}, "^up, down: whole factors >= 1; got 1, -1"),
    ],
)
def test_wrong_arguments_are_named(taps, factors, message):
    with pytest.raises(ConfigError, match=message):
        upfirdn2d(torch.zeros(1, 1, 4, 4), taps, **factors)


def test_a_negative_gain_turns_the_sign(normal):
    x = normal(1, 2, 5, 4)
    assert torch.equal(upfirdn2d(x, TAPS, gain=-2.0), -upfirdn2d(x, TAPS, gain=2.0))


def test_more_may_be_cropped_than_there_was():
    x = torch.ones(1, 1, 1, 4)
    got = upfirdn2d(x, TAPS[:2], pad=(0, 0, 5, -3))
    assert got.shape == (1, 1, 2, 3)
    assert float(got.abs().sum()) == 0


def test_nothing_can_be_filtered_and_differentiated():
    x = torch.zeros(1, 2, 0, 4, requires_grad=True)
    y = upfirdn2d(x, TAPS, pad=(2, 2, 2, 2))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.shape == x.shape

"""upfirdn2d: native kernels against the reference in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from defectgen.ops import _dispatch, downsample2d, upfirdn2d, upsample2d
from defectgen.ops.upfirdn2d import upfirdn2d_bias_act

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
SKEW = torch.tensor([0.5, -1.0, 2.0])  # neither even nor symmetric
LONG = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0, 2.0, 0.25])
SHAPES = [(1, 1, 1, 1), (2, 3, 3, 5), (2, 16, 7, 1), (1, 17, 17, 33), (1, 64, 1, 7), (0, 3, 5, 5)]
#: The three that networks use, and what none asks for.
CASES = [
    {"up": 2, "pad": (2, 1, 2, 1), "gain": 4.0},
    {"down": 2, "pad": (2, 2, 2, 2)},
    {"pad": (2, 1, 2, 1)},
    {"up": 3, "down": 2, "pad": (6, 6, 6, 6), "flip": True},
    {"up": 2, "down": 3, "pad": (9, -1, 9, -2), "gain": 0.3},
    {"pad": (-1, 12, 12, -1)},
    {"down": 5, "pad": (0, 9, 20, 7)},
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(normal, agree, device, lay, dtype, shape):
    x = lay(normal(*shape, dtype=dtype))
    taps = TAPS.to(device)
    for case in CASES[:3]:
        y = agree(lambda x, case=case: upfirdn2d(x, taps, **case), {"x": x})["value"]
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=lay.format)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_what_lies_scattered_equals_the_reference(normal, agree, device, mislay, case, dtype):
    x, taps = mislay(normal(2, 3, 5, 7, dtype=dtype)), TAPS.to(device)
    y = agree(lambda x: upfirdn2d(x, taps, **case), {"x": x})["value"]
    assert y.is_contiguous(memory_format=mislay.format)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("taps", [TAPS, SKEW, LONG, TAPS[:1], TAPS[1:3]], ids=len)
def test_any_factors_pads_and_filters_equal_the_reference(normal, agree, device, taps, case, last):
    for shape in [(2, 3, 5, 7), (1, 16, 7, 5)]:
        x, f = normal(*shape, dtype=torch.float32), taps.to(device)
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        agree(lambda x, f=f: upfirdn2d(x, f, **case), {"x": x})


@pytest.mark.parametrize("op", [upsample2d, downsample2d])
@pytest.mark.parametrize("taps", [None, TAPS[1:3], SKEW])
def test_resampling_equals_the_reference(normal, agree, device, op, taps):
    taps = taps if taps is None else taps.to(device)
    agree(lambda x: op(x, taps), {"x": normal(2, 3, 6, 8, dtype=torch.bfloat16)})


def test_the_gradient_to_a_filter_is_that_of_the_reference(normal, agree):
    inputs = {"x": normal(2, 3, 5, 4), "f": SKEW.double()}
    agree(lambda x, f: upfirdn2d(x, f, up=2, pad=(2, 1, 2, 1)), inputs)


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("case", CASES[:6], ids=str)
def test_gradients_of_channels_last(fused, normal, check, case):
    x = normal(1, 2, 3, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert check(lambda x: upfirdn2d(x, SKEW.double(), **case), [x], fast_mode=True)


def test_what_is_smaller_than_the_filter_is_refused(fused, device):
    with pytest.raises(RuntimeError, match="as large as the filter"):
        upfirdn2d(torch.ones(1, 1, 2, 2, device=device), TAPS.to(device), pad=(1, 0, 1, 1))


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_not_finite_spreads_as_in_the_reference(native, device, place, last, number):
    x = torch.ones(1, 3, 3, 3, device=device)
    x[0, 1].view(-1)[place] = number
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    for op in (upsample2d, downsample2d):
        with _dispatch.use_kernels("reference"):
            wanted = op(x.cpu())
        with _dispatch.use_kernels("fused"):
            got = op(x)
        assert torch.equal(got[:, ::2].cpu().isfinite(), torch.ones_like(wanted[:, ::2]).bool())
        assert torch.equal(got.cpu().isfinite(), wanted.isfinite())


# -- followed by bias_act --------------------------------------------------------------------------

TERMS = ("scale", "noise", "bias", "post")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("terms", [(), ("bias",), ("noise",), ("scale", "noise", "bias"), TERMS])
@pytest.mark.parametrize(("act", "clamp"), [("linear", None), ("lrelu", 1.5)])
def test_both_in_one_pass_equal_both_references(
    normal, agree, device, lay, dtype, terms, act, clamp
):
    small = torch.promote_types(dtype, torch.float32)
    shapes = {"scale": (2, 17), "noise": (2, 1, 6, 4), "bias": (17,), "post": (2, 17)}
    given = {"x": lay(normal(2, 17, 7, 5, dtype=dtype))}
    given |= {name: normal(*shapes[name], dtype=small) for name in terms}
    taps = TAPS.to(device)

    def call(**given):
        return upfirdn2d_bias_act(
            **given, f=taps, pad=(1, 1, 1, 1), filter_gain=4.0, act=act, clamp=clamp
        )

    y = agree(call, given, fixed=set(given))["value"]
    assert y.is_contiguous(memory_format=lay.format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_lines_too_long_to_stay_near_equal_the_reference(normal, agree, device, dtype, case):
    x, taps = normal(2, 520, 6, 23, dtype=dtype), TAPS.to(device)
    given = {"x": x.contiguous(memory_format=torch.channels_last)}
    agree(lambda x: upfirdn2d(x, taps, **case), given)
    given["noise"] = normal(2, 1, 5, 22, dtype=torch.float32)
    end = {"pad": (1, 1, 1, 1), "filter_gain": 4.0, "act": "lrelu"}
    agree(lambda **given: upfirdn2d_bias_act(**given, f=taps, **end), given, fixed=set(given))

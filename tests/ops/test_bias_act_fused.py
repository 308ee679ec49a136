"""bias_act: native kernels against the reference in float64, and what they do with odd numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from defectgen.ops import _dispatch, bias_act

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 3, 5),
    (3, 16, 7, 1),
    (1, 17, 17, 33),  # more pixels than one unit of work
    (2, 64, 1, 17),
    (2, 48, 17, 33),
    (2, 64, 1, 1),
    (0, 3, 5, 5),
    (2, 3, 0, 5),
]
EVERYTHING = ("bias", "scale", "noise")
# Between two steps of what is clamped, 1/64, and beyond a fifth of the largest negative number, -8:
# no rounding decides what is clamped.
CLAMP = 213 / 128


@pytest.fixture
def inputs(steps):
    """inputs(shape, dtype, parts): x in this dtype, the others in that of parameters."""

    def build(shape, dtype, parts=EVERYTHING):
        small = torch.promote_types(dtype, torch.float32)
        n, c, *rest = shape
        shapes = {"bias": (c,), "scale": (n, c), "noise": (n, 1, *rest), "post": (n, c)}
        return {"x": steps(*shape, dtype=dtype)} | {
            name: steps(*shapes[name], dtype=small) for name in parts
        }

    return build


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(inputs, agree, lay, dtype, shape):
    given = inputs(shape, dtype)
    given["x"] = lay(given["x"])
    y = agree(lambda **given: bias_act(**given, act="lrelu", gain=1.0, clamp=CLAMP), given)["value"]
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=lay.format)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_lies_scattered_equals_the_reference(inputs, agree, mislay, dtype):
    given = inputs((2, 3, 5, 7), dtype)
    given["x"] = mislay(given["x"])
    y = agree(lambda **given: bias_act(**given, act="lrelu", gain=1.0, clamp=CLAMP), given)["value"]
    assert y.is_contiguous(memory_format=mislay.format)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize(
    "parts",
    [(), ("bias",), ("scale",), ("noise",), ("scale", "noise"), ("bias", "scale"), EVERYTHING],
)
@pytest.mark.parametrize(("gain", "clamp"), [(None, None), (1.0, CLAMP), (0.7, 0.9)])
def test_any_choice_of_terms_equals_the_reference(
    inputs, normal, agree, last, act, parts, gain, clamp
):
    given = {
        name: normal(*x.shape, dtype=x.dtype)
        for name, x in inputs((2, 3, 5, 4), torch.float32, parts).items()
    }
    if last:
        given["x"] = given["x"].contiguous(memory_format=torch.channels_last)
    agree(lambda **given: bias_act(**given, act=act, gain=gain, clamp=clamp), given)


@pytest.mark.parametrize("parts", [(), ("bias",), ("scale",), ("noise",), EVERYTHING])
@pytest.mark.parametrize("only", [None, "x"])
def test_any_choice_of_terms_of_few_channels_in_bfloat16(inputs, agree, parts, only):
    given = inputs((2, 32, 5, 7), torch.bfloat16, parts)
    given["x"] = given["x"].contiguous(memory_format=torch.channels_last)
    fixed = set() if only is None else set(given) - {only}
    agree(lambda **given: bias_act(**given, act="lrelu", gain=1.0, clamp=CLAMP), given, fixed)


@pytest.mark.parametrize("shape", [(3, 16), (2, 3, 7), (2, 3, 2, 3, 5)])
def test_any_number_of_dimensions_equals_the_reference(inputs, agree, shape):
    agree(lambda **given: bias_act(**given, act="lrelu"), inputs(shape, torch.bfloat16))


@pytest.mark.parametrize("only", ["x", *EVERYTHING])
def test_one_gradient_at_a_time(inputs, agree, only):
    given = inputs((2, 3, 5, 4), torch.float32)
    fixed = set(given) - {only}
    found = agree(lambda **given: bias_act(**given, act="lrelu", clamp=CLAMP), given, fixed)
    assert f"gradient to {only}" in found


@pytest.mark.parametrize("channels", [17, 32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_post_is_one_more_factor_with_and_without_a_graph(inputs, agree, lay, dtype, channels):
    given = inputs((2, channels, 5, 3), dtype, (*EVERYTHING, "post"))
    given["x"] = lay(given["x"])
    # With a graph these are two passes, and the gradient to ``post`` sees the rounded first result.
    fixed = set(given) if dtype.itemsize == 2 else ()
    agree(lambda **given: bias_act(**given, act="lrelu", gain=1.0, clamp=CLAMP), given, fixed)


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("parts", [("bias",), ("scale",), EVERYTHING])
def test_gradients_of_channels_last(fused, normal, check, parts):
    every = {"bias": normal(3), "scale": normal(2, 3), "noise": normal(2, 1, 2, 3)}
    x = normal(2, 3, 2, 3).contiguous(memory_format=torch.channels_last)
    leaves = [t.requires_grad_() for t in (x, *(every[name] for name in parts))]

    def call(x, *given):
        return bias_act(x, **dict(zip(parts, given, strict=True)), act="lrelu", clamp=1.3)

    assert check(call, leaves)


# -- rounding, NaN and infinity --------------------------------------------------------------------


def every_number(dtype, last):
    """All 65536 numbers of a dtype of two bytes, NaNs and infinities among them."""
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    x = bits.view(dtype).reshape(1, 64, 32, 32)
    return x.contiguous(memory_format=torch.channels_last) if last else x


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("dtype", "factor"),
    # The first of each pair lies half way between two numbers of the dtype: many ties.
    [
        (torch.bfloat16, 1 + 2**-8),
        (torch.bfloat16, 3.0),
        (torch.float16, 1 + 2**-11),
        (torch.float16, 3.0),
    ],
)
def test_rounds_to_nearest_and_ties_to_even(fused, device, last, dtype, factor):
    x = every_number(dtype, last).to(device)
    y = bias_act(x, scale=torch.full((1, 64), factor, device=device))
    wanted = (x.float() * factor).to(dtype)  # overflows to infinity, as IEEE 754 has it
    assert wanted.isinf().any()
    # Numbers smaller than normal ones may become zero: processors round a row of bfloat16 that way.
    tiny = wanted.abs() < torch.finfo(dtype).tiny
    torch.testing.assert_close(y[~tiny], wanted[~tiny], rtol=0, atol=0, equal_nan=True)
    assert ((y == wanted) | (y == 0))[tiny].all()


SPECIAL = [math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0, -0.0, 1e-30, -1.0, 1.0]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize("clamp", [None, 1.5])
@pytest.mark.parametrize("channels", [40, 48])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinity_go_the_way_of_the_reference(
    native, device, last, act, clamp, channels, dtype
):
    x = (
        torch.tensor(SPECIAL, dtype=dtype, device=device)
        .reshape(1, 1, 2, 5)
        .repeat(1, channels, 1, 1)
    )
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    found = {}
    for mode in ("reference", "fused"):
        with _dispatch.use_kernels(mode):
            leaf = x.detach().requires_grad_()
            y = bias_act(leaf, torch.zeros(channels, device=device), act=act, clamp=clamp, gain=1.0)
            found[mode] = y, grad(y, leaf, torch.full_like(y, 2.0))[0]
    for got, wanted in zip(found["fused"], found["reference"], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-2, atol=0, equal_nan=True)


def test_gradient_at_the_clamp_is_zero(fused, device):
    x = torch.tensor([[-1.5, -1.0, 0.5, 1.0, 1.5]], device=device).requires_grad_()
    y = bias_act(x, clamp=1.0)
    assert grad(y.sum(), x)[0].tolist() == [[0, 0, 1, 0, 0]]

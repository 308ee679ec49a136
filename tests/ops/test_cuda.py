"""CUDA kernels where they differ from those of a CPU: vectors, many blocks, sums of blocks.

All that both must do is in test_*_fused.py, which ``--device cuda`` runs on a GPU as well.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch.autograd import grad

from defectgen.ops import _dispatch, bias_act, masked_add, upfirdn2d
from defectgen.ops.upfirdn2d import upfirdn2d_bias_act

EMULATED = "DEFECTGEN_EMULATED" in os.environ  # see test_cuda_emulated.py
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
CLAMP = 213 / 128  # no rounding decides what is clamped, see test_bias_act_fused.py

#: Channels: one vector; not a power of two of them; one warp and two warps of them; no whole number
#: of them; more than one block can hold. Sizes: several blocks per sample.
SHAPES = [
    (2, 8, 33, 40),
    (2, 24, 9, 13),
    (3, 128, 5, 7),
    (1, 512, 12, 11),
    (2, 300, 6, 5),
    (1, 2056, 3, 5),
]


@pytest.fixture(autouse=True)
def gpu(device):
    if not (device.startswith("cuda") or EMULATED):
        pytest.skip("needs a GPU: pass --device cuda")


@pytest.fixture
def everything(steps):
    """everything(shape, dtype): features and all small tensors that go with them."""

    def build(shape, dtype):
        n, c, h, w = shape
        small = torch.promote_types(dtype, torch.float32)
        shapes = {"bias": (c,), "scale": (n, c), "noise": (n, 1, h, w)}
        return {"x": steps(*shape, dtype=dtype)} | {
            name: steps(*size, dtype=small) for name, size in shapes.items()
        }

    return build


def back(y, lay):
    """``y``, whose gradient will come back in the layout of ``lay``, as networks give it."""
    if y.requires_grad:
        y.register_hook(lambda g: None if g is None else lay(g))
    return y


def shifted(x):
    """The same numbers in the same layout, where no 16-byte access can begin."""
    room = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
    return room[1:].as_strided(x.shape, x.stride(), 1).copy_(x)


# -- values and gradients --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bias_act(everything, agree, lay, dtype, shape):
    given = everything(shape, dtype)
    given["x"] = lay(given["x"])
    agree(lambda **g: back(bias_act(**g, act="lrelu", gain=1.0, clamp=CLAMP), lay), given)


@pytest.mark.parametrize("parts", [(), ("bias",), ("noise",), ("bias", "noise")])
def test_bias_act_without_terms_of_samples(everything, agree, lay, parts):
    given = everything((3, 64, 4, 5), torch.bfloat16)
    given = {name: given[name] for name in ("x", *parts)}
    given["x"] = lay(given["x"])
    agree(lambda **g: back(bias_act(**g, act="lrelu", gain=1.0), lay), given)


def test_bias_act_of_vectors_without_pixels(steps, agree):
    for terms in ({}, {"scale": steps(300, 1024, dtype=torch.float32)}):
        given = {"x": steps(300, 1024, dtype=torch.float32), "bias": steps(1024).float(), **terms}
        agree(lambda **given: bias_act(**given, act="lrelu", gain=1.0), given)


#: So many pixels that a thread takes several rounds of them.
MANY = (1, 3, 1200, 1200)


def test_bias_act_in_very_many_blocks(everything, agree, lay):
    given = everything(MANY, torch.float32)
    given["x"] = lay(given["x"])
    fixed = {"bias", "scale"}  # sums of a million numbers
    agree(lambda **g: back(bias_act(**g, act="lrelu", gain=1.0), lay), given, fixed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [{}, {"up": 2}, {"down": 2}, {"up": 2, "down": 2}], ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 19, 70), (1, 72, 9, 5), (1, 3, 17, 90)], ids=str)
def test_upfirdn2d(normal, agree, device, lay, dtype, case, shape):
    x, taps = lay(normal(*shape, dtype=dtype)), TAPS.to(device)
    for pad in [(2, 1, 2, 1), (1, 2, 3, 0), (-1, 4, 4, -3)]:
        agree(lambda x, pad=pad: back(upfirdn2d(x, taps, **case, pad=pad), lay), {"x": x})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("clamp", [None, 1.5])
@pytest.mark.parametrize("channels", [8, 64, 24, 3])
def test_upfirdn2d_with_all_that_follows(normal, agree, device, lay, dtype, clamp, channels):
    small = torch.promote_types(dtype, torch.float32)
    shapes = {
        "scale": (2, channels),
        "noise": (2, 1, 17, 41),
        "bias": (channels,),
        "post": (2, channels),
    }
    given = {"x": lay(normal(2, channels, 18, 42, dtype=dtype))}
    given |= {name: normal(*size, dtype=small) for name, size in shapes.items()}
    taps = TAPS.to(device)

    def call(**given):
        return upfirdn2d_bias_act(
            **given, f=taps, pad=(1, 1, 1, 1), filter_gain=4.0, act="lrelu", clamp=clamp
        )

    agree(call, given, fixed=set(given))


@pytest.fixture
def gated(normal, steps):
    """gated(shape, factor, dtype): logits that are exact after upsampling, and never zero."""

    def build(shape, factor, dtype):
        n, _, h, w = shape
        small = torch.promote_types(dtype, torch.float32)
        logits = steps(n, 1, h // factor, w // factor, dtype=small) + 1 / 16
        return {
            "x": normal(*shape, dtype=dtype),
            "residual": normal(*shape, dtype=dtype),
            "logits": logits,
            "within": normal(n, 1, h, w) > -0.5,
        }

    return build


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(
    "shape", [(2, 8, 34, 40), (2, 24, 8, 14), (1, 512, 12, 10), (1, 2056, 4, 4), (1, 36, 64, 64)]
)
@pytest.mark.parametrize("mode", ["hard", "straight_through"])
def test_masked_add(gated, agree, lay, dtype, shape, factor, mode):
    given = gated(shape, factor, dtype)
    given |= {name: lay(given[name]) for name in ("x", "residual")}
    agree(lambda **g: back(masked_add(**g, mode=mode), lay), given, second_terms=3)


def test_masked_add_in_very_many_blocks(gated, agree, lay):
    given = gated(MANY, 2, torch.float32)
    given |= {name: lay(given[name]) for name in ("x", "residual")}
    mode = "straight_through"
    agree(lambda **g: back(masked_add(**g, mode=mode), lay), given, second_terms=3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_closed_gates_hide_what_is_not_a_number(native, device, normal, lay, dtype):
    x = lay(normal(2, 16, 8, 8, dtype=dtype)).to(device)
    logits = normal(2, 1, 8, 8, dtype=torch.promote_types(dtype, torch.float32)).to(device)
    residual = torch.where(logits >= 0, 1.0, torch.nan).to(dtype) + torch.zeros_like(x)
    with _dispatch.use_kernels("fused"):
        y = masked_add(x, residual, logits)
    assert torch.equal(y, torch.where(logits >= 0, x + 1, x))


def test_features_that_begin_anywhere(native, device, normal, lay):
    for dtype in DTYPES:
        x, r = (lay(normal(2, 16, 6, 8, dtype=dtype)).to(device) for _ in range(2))
        m = normal(2, 1, 6, 8, dtype=torch.promote_types(dtype, torch.float32)).to(device)
        moved = shifted(x), shifted(r)
        assert all(t.data_ptr() % 16 for t in moved)
        with _dispatch.use_kernels("fused"):
            for call in (
                lambda x, r: bias_act(x, act="lrelu"),
                lambda x, r: upfirdn2d(x, TAPS.to(device), pad=(2, 1, 2, 1)),
                lambda x, r, m=m: masked_add(x, r, m),
            ):
                torch.testing.assert_close(call(*moved), call(x, r))


# -- sums ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("channels", [64, 512, 3])
def test_sums_have_the_same_bits_every_time(native, device, normal, lay, dtype, channels):
    shape = (2, channels, 33, 40)
    x = lay(normal(*shape, dtype=dtype)).to(device).requires_grad_()
    r = lay(normal(*shape, dtype=dtype)).to(device)
    sizes = [(channels,), (2, channels), (2, 1, 33, 40), (2, 1, 33, 40)]
    bias, scale, noise, m = (
        normal(*s, dtype=torch.float32).to(device).requires_grad_() for s in sizes
    )
    dy = lay(normal(*shape, dtype=dtype)).to(device)
    found = []
    with _dispatch.use_kernels("fused"):
        for _ in range(2 if EMULATED else 20):
            y = bias_act(x, bias, scale=scale, noise=noise, act="lrelu")
            y = masked_add(y, r, m, mode="straight_through")
            found.append(grad(y, [x, bias, scale, noise, m], dy))
    for again in found[1:]:
        for one, other in zip(found[0], again, strict=True):
            assert torch.equal(one, other)

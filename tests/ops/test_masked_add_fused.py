"""masked_add: native kernels against the reference in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from defectgen.ops import _dispatch, masked_add
from defectgen.ops.masked_add import _table, _upsampling, upsample_logits

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
#: Shape of the features, and how much smaller the logits are.
SHAPES = [
    ((1, 1, 1, 1), 1),
    ((2, 3, 5, 3), 1),
    ((3, 16, 7, 1), 1),
    ((1, 17, 17, 33), 1),
    ((2, 64, 4, 12), 4),
    ((2, 17, 10, 6), 2),
    ((2, 3, 16, 16), 16),
    ((0, 3, 8, 8), 2),
]
MODES = pytest.mark.parametrize("mode", ["hard", "straight_through"])


@pytest.fixture
def inputs(normal, steps):
    """inputs(shape, factor, dtype, contained): logits are odd multiples of 1/16.

    Upsampled up to twice they are exact in float32, so both sides agree which are negative; and
    from one step to the next of a larger factor they have signs that nobody could mistake.
    """

    def build(shape, factor, dtype, contained=False):
        n, _, h, w = shape
        small = torch.promote_types(dtype, torch.float32)
        logits = steps(n, 1, h // factor, w // factor, dtype=small)
        logits = logits.sign() + logits if factor > 4 else logits + 1 / 16
        given = {
            "x": normal(*shape, dtype=dtype),
            "residual": normal(*shape, dtype=dtype),
            "logits": logits,
        }
        return given | ({"within": normal(n, 1, h, w) > -0.5} if contained else {})

    return build


@MODES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "factor"), SHAPES, ids=str)
def test_equals_the_reference(inputs, agree, lay, dtype, shape, factor, mode):
    given = inputs(shape, factor, dtype, contained=True)
    given |= {name: lay(given[name]) for name in ("x", "residual")}
    # The second derivative of the surrogate adds rounded terms.
    y = agree(lambda **given: masked_add(**given, mode=mode), given, second_terms=3)["value"]
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=lay.format)


@MODES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_lies_scattered_equals_the_reference(inputs, agree, mislay, dtype, mode):
    given = inputs((2, 3, 6, 10), 2, dtype, contained=True)
    given |= {name: mislay(given[name]) for name in ("x", "residual")}
    y = agree(lambda **given: masked_add(**given, mode=mode), given, second_terms=3)["value"]
    assert y.is_contiguous(memory_format=mislay.format)


@MODES
@pytest.mark.parametrize("contained", [False, True])
@pytest.mark.parametrize("lay_logits", ["expanded", "slice"])
def test_logits_and_limits_may_lie_anywhere(inputs, agree, mode, contained, lay_logits):
    given = inputs((2, 3, 8, 8), 2, torch.float32, contained)
    one = {"expanded": lambda t: t[:1].expand_as(t), "slice": lambda t: t.repeat(1, 2, 1, 1)[:, :1]}
    given |= {name: one[lay_logits](given[name]) for name in given if name in ("logits", "within")}
    agree(lambda **given: masked_add(**given, mode=mode), given)


@pytest.mark.parametrize(
    ("mode", "only"),
    [
        ("hard", "x"),
        ("hard", "residual"),
        ("straight_through", "residual"),
        ("straight_through", "logits"),
    ],
)
def test_one_gradient_at_a_time(inputs, agree, mode, only):
    given = inputs((2, 3, 8, 8), 2, torch.float32)
    agree(lambda **given: masked_add(**given, mode=mode), given, fixed=set(given) - {only})


@MODES
def test_features_of_different_layouts_follow_the_first(inputs, agree, mode):
    given = inputs((2, 3, 8, 8), 2, torch.float32)
    given["x"] = given["x"].contiguous(memory_format=torch.channels_last)
    y = agree(lambda **given: masked_add(**given, mode=mode), given)["value"]
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_hard_gradients_of_channels_last(fused, inputs, check):
    given = inputs((2, 2, 4, 4), 2, torch.float64)
    leaves = [t.requires_grad_() for t in given.values()]
    leaves[:2] = [
        t.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        for t in leaves[:2]
    ]
    assert check(masked_add, leaves, fast_mode=True)


def test_the_surrogate_is_checked_to_second_order_by_the_gate_it_stands_for(fused, normal):
    """d/dm of the gradient that the surrogate gives is that of a sigmoid gate."""
    x, r = normal(2, 3, 8, 8).requires_grad_(), normal(2, 3, 8, 8).requires_grad_()
    m, dy, turn = normal(2, 1, 4, 4).requires_grad_(), normal(2, 3, 8, 8), normal(2, 1, 4, 4)
    found = []
    for y in (
        masked_add(x, r, m, mode="straight_through"),
        x + torch.sigmoid(2.0 * upsample_logits(m, 8)) * r,
    ):
        (first,) = grad(y, m, dy, create_graph=True)
        found.append(grad((first * turn).sum(), m)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last", [False, True])
def test_saturated_logits_get_no_gradient_and_no_nan(fused, device, normal, last):
    x, r, m = torch.zeros(1, 2, 1, 4), normal(1, 2, 1, 4), torch.tensor([-1e3, -60.0, 60.0, 1e3])
    if last:
        r = r.contiguous(memory_format=torch.channels_last)
    m = m.reshape(1, 1, 1, 4).to(device).requires_grad_()
    y = masked_add(x.to(device), r.float().to(device), m, mode="straight_through")
    assert grad(y.square().sum(), m)[0].abs().max() < 1e-30


# -- what is not finite ----------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 5, 15])
def test_logits_that_are_not_finite_open_the_gates_of_the_reference(
    native, device, normal, mode, factor, number, place
):
    side = 4 * factor
    x, r, m = normal(1, 3, side, side), normal(1, 3, side, side), normal(1, 1, 4, 4)
    m.view(-1)[place] = number
    with _dispatch.use_kernels("reference"):
        wanted = masked_add(x, r, m, mode="hard")
    with _dispatch.use_kernels("fused"):
        got = masked_add(x.to(device), r.to(device), m.to(device), mode=mode)
    assert torch.equal(got.cpu(), wanted)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_features_that_are_not_finite_enter_through_open_gates(native, device, number):
    x, r = torch.ones(1, 2, 1, 2, device=device), torch.full((1, 2, 1, 2), number, device=device)
    with _dispatch.use_kernels("fused"):
        y = masked_add(x, r, torch.tensor([[[[1.0, -1.0]]]], device=device))
    torch.testing.assert_close(y[0, 0, 0].tolist(), [number, 1.0], equal_nan=True)


# -- upsampling as a table -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("factor", [1, 2, 4, 16])
def test_the_table_is_repeated_doubling(normal, device, size, factor):
    first, weights = _table(size, factor, torch.device(device), torch.float64)
    matrix = torch.zeros(size * factor, size + weights.shape[1], dtype=torch.float64)
    places = first.cpu().long()[:, None] + torch.arange(weights.shape[1])
    matrix = matrix.scatter_(1, places, weights.cpu())[:, :size]
    assert torch.equal(matrix, _upsampling(size, factor))
    logits = normal(1, 1, size, size)
    with _dispatch.use_kernels("reference"):
        wanted = upsample_logits(logits, size * factor)
    torch.testing.assert_close(matrix @ logits @ matrix.t(), wanted, rtol=1e-12, atol=1e-12)

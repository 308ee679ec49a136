from __future__ import annotations

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from defectgen.errors import ConfigError
from defectgen.ops import masked_add, upsample2d
from defectgen.ops.masked_add import SURROGATE_STEEPNESS, upsample_logits

pytestmark = pytest.mark.usefixtures("kernels")

MODES = pytest.mark.parametrize("mode", ["hard", "straight_through"])


def away_from_zero(m):
    """Move logits out of (-0.1, 0.1), where a finite difference would cross the step."""
    return m + 0.1 * torch.where(m >= 0, 1.0, -1.0)


@MODES
def test_smoke(mode):
    x, r = torch.ones(1, 2, 1, 2), torch.full((1, 2, 1, 2), 5.0)
    y = masked_add(x, r, torch.tensor([[[[-0.5, 0.0]]]]), mode=mode)
    assert y.tolist() == [[[[1, 6]], [[1, 6]]]]  # zero itself is inside


@MODES
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 5, 7), (3, 2, 1, 1)])
def test_values_pixel_by_pixel(normal, same, mode, shape):
    n, c, h, w = shape
    x, r, m = normal(*shape), normal(*shape), normal(n, 1, h, w)
    within = normal(n, 1, h, w) > -0.5
    wanted, contained = x.clone(), x.clone()
    for i in range(n):
        for a in range(h):
            for b in range(w):
                if m[i, 0, a, b] >= 0:
                    wanted[i, :, a, b] += r[i, :, a, b]
                    if within[i, 0, a, b]:
                        contained[i, :, a, b] += r[i, :, a, b]
    same(masked_add(x, r, m, mode=mode), wanted)
    same(masked_add(x, r, m, mode=mode, within=within), contained)


@MODES
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_smaller_logits_are_upsampled(normal, mode, factor):
    x, r, m = normal(2, 3, 16, 16), normal(2, 3, 16, 16), normal(2, 1, 16 // factor, 16 // factor)
    large = m
    for _ in range(factor // 2):
        large = upsample2d(large)
    assert torch.equal(masked_add(x, r, m, mode=mode), x + r * (large >= 0))
    assert torch.equal(upsample_logits(m, 16), large)


def test_upsampling_of_one_sign_keeps_the_sign_up_to_the_border():
    m = upsample_logits(torch.full((1, 1, 4, 4), -1.0), 32)
    assert float(m.max()) < 0
    assert float(m[..., 0, 0]) > float(m[..., 16, 16])  # zeros beyond the border: smaller, not gone


@MODES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_that_of_x_though_logits_are_exact(normal, same, mode, dtype):
    x, r = normal(2, 3, 8, 8, dtype=dtype), normal(2, 3, 8, 8, dtype=dtype)
    m = normal(2, 1, 8, 8, dtype=torch.float32)
    m[:, :, 0] = -1e-9  # negative in float32, zero and so inside if it were rounded to float16
    y = masked_add(x, r, m, mode=mode)
    assert y.dtype == dtype
    same(y, x.double() + r.double() * (m >= 0))


@MODES
def test_channels_last_goes_in_and_comes_out(normal, mode):
    x, r, m = normal(2, 3, 6, 4), normal(2, 3, 6, 4), normal(2, 1, 6, 4)
    turned = [t.contiguous(memory_format=torch.channels_last) for t in (x, r)]
    y = masked_add(*turned, m, mode=mode)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, masked_add(x, r, m, mode=mode))


@MODES
def test_empty_batch(mode):
    y = masked_add(
        torch.zeros(0, 3, 8, 8), torch.zeros(0, 3, 8, 8), torch.zeros(0, 1, 4, 4), mode=mode
    )
    assert y.shape == (0, 3, 8, 8)


@MODES
def test_closed_gates_leave_x_bit_for_bit(normal, mode):
    x, r = normal(2, 3, 8, 8, dtype=torch.float32), 1e4 * normal(2, 3, 8, 8, dtype=torch.float32)
    assert torch.equal(masked_add(x, r, torch.full((2, 1, 8, 8), -1e-6), mode=mode), x)


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("contained", [False, True])
def test_hard_gradients_are_those_of_a_function(normal, check, contained):
    x, r = normal(2, 2, 4, 4).requires_grad_(), normal(2, 2, 4, 4).requires_grad_()
    m = away_from_zero(normal(2, 1, 4, 4)).requires_grad_()
    within = normal(2, 1, 4, 4) > 0 if contained else None
    # The logits are among the inputs: their numerical derivative is zero away from the step, too.
    assert check(lambda x, r, m: masked_add(x, r, m, within=within), [x, r, m])


@pytest.mark.parametrize("size", [4, 2])
def test_hard_gate_gives_the_logits_no_gradient_at_all(normal, size):
    x, r = normal(2, 3, 4, 4).requires_grad_(), normal(2, 3, 4, 4).requires_grad_()
    m = normal(2, 1, size, size).requires_grad_()
    y = masked_add(x, r, m).square().sum()
    assert grad(y, m, allow_unused=True, retain_graph=True) == (None,)
    assert grad(y, m, materialize_grads=True)[0].abs().sum() == 0


@pytest.mark.parametrize("factor", [1, 2])
def test_straight_through_has_the_gradient_of_a_sigmoid_gate(normal, factor):
    x, r = normal(2, 3, 8, 8).requires_grad_(), normal(2, 3, 8, 8).requires_grad_()
    m = normal(2, 1, 8 // factor, 8 // factor).requires_grad_()
    cotangent = normal(2, 3, 8, 8)
    hard = masked_add(x, r, m)
    y = masked_add(x, r, m, mode="straight_through")
    assert torch.equal(y, hard)

    large = upsample2d(m) if factor == 2 else m
    soft = x + torch.sigmoid(2.0 * large) * r
    assert SURROGATE_STEEPNESS == 2.0
    torch.testing.assert_close(
        grad(y, m, cotangent, retain_graph=True), grad(soft, m, cotangent), rtol=1e-12, atol=1e-12
    )
    # Features and residual feel the gate that was applied, not the sigmoid.
    for one, other in zip(grad(y, (x, r), cotangent), grad(hard, (x, r), cotangent), strict=True):
        assert torch.equal(one, other)


def test_straight_through_reaches_closed_gates(normal):
    m = torch.full((1, 1, 4, 4), -0.5, dtype=torch.float64, requires_grad=True)
    y = masked_add(normal(1, 2, 4, 4), normal(1, 2, 4, 4), m, mode="straight_through")
    assert bool((grad(y.sum(), m)[0] != 0).all())  # the hard gate would never open again


@MODES
def test_within_closes_gates_and_stops_gradients(normal, mode):
    x, r = normal(2, 3, 4, 4).requires_grad_(), normal(2, 3, 4, 4).requires_grad_()
    m = normal(2, 1, 4, 4).abs().requires_grad_()  # all open
    within = normal(2, 1, 4, 4) > 0
    assert within.any()
    assert not within.all()
    y = masked_add(x, r, m, mode=mode, within=within)
    assert torch.equal(y, x + r * within)
    to_r, to_m = grad(y.sum(), (r, m), materialize_grads=True)
    assert torch.equal(to_r, within.expand_as(r).to(r))
    if mode == "straight_through":
        assert torch.equal(to_m != 0, within)


def test_within_cannot_open_a_gate(normal):
    x, r, m = normal(1, 2, 4, 4), normal(1, 2, 4, 4), -normal(1, 1, 4, 4).abs() - 1e-3
    within = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert torch.equal(masked_add(x, r, m, within=within), x)


@pytest.mark.parametrize(
    ("residual", "logits", "mode", "message"),
    [
        ((2, 4, 8, 8), (2, 1, 8, 8), "hard", r"^residual: the shape of x \(2, 3, 8, 8\); got"),
        ((2, 3, 8, 8), (2, 3, 8, 8), "hard", r"^logits: \(N, 1, h, w\) with N of x"),
        ((2, 3, 8, 8), (2, 1, 16, 16), "hard", "^logits: "),
        ((2, 3, 8, 8), (2, 1, 3, 3), "hard", "^logits: "),
        pytest.param((2, 3, 8, 8), (1, 1, 8, 8), "hard", "^logits: "),
        pytest.param((2, 3, 8, 8), (2, 1, 2, 4), "hard", "^logits: "),
        ((2, 3, 8, 8), (2, 1, 8, 8), "soft", "^mode: hard or straight_through; got 'soft'"),
    ],
)
def test_wrong_arguments_are_named(residual, logits, mode, message):
    with pytest.raises(ConfigError, match=message):
        masked_add(torch.zeros(2, 3, 8, 8), torch.zeros(residual), torch.zeros(logits), mode=mode)


def test_a_mask_of_numbers_is_refused():
    x = torch.zeros(1, 2, 4, 4)
    within = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="^within: bool .* got torch.uint8"):
        masked_add(x, x, torch.zeros(1, 1, 4, 4), within=within)


@pytest.mark.parametrize("size", [(5, 4), (4, 5), (3, 4)])
def test_a_height_that_is_no_multiple_is_refused(size):
    x = torch.zeros(1, 2, *size)
    with pytest.raises(ConfigError, match="^logits: "):
        masked_add(x, x, torch.zeros(1, 1, 2, 2))

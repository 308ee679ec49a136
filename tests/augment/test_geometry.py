"""The drawn maps against their distributions."""

from __future__ import annotations

import math

import pytest
import torch

from defectgen.augment import POLICIES
from defectgen.augment.geometry import OPERATIONS, draw_matrices

MANY = 4000


@pytest.fixture
def draw(only, source):
    """draw(*names, p=1, n=MANY, size=64): (n, 3, 3) matrices of these operations, float64."""

    def build(*names, p=1.0, n=MANY, size=64, seed=0):
        return draw_matrices(only(*names), n, size, p=p, generator=source(seed)).double()

    return build


def changed(matrices):
    return (matrices != torch.eye(3)).flatten(1).any(dim=1)


@pytest.mark.parametrize(("name", "axis"), [("flip_x", 0), ("flip_y", 1)])
def test_a_flip_mirrors_one_axis_or_nothing(draw, binomial_close, name, axis):
    matrices = draw(name)
    mirror = torch.eye(3, dtype=torch.float64)
    mirror[axis, axis] = -1
    is_mirror = (matrices == mirror).flatten(1).all(dim=1)
    assert torch.equal(is_mirror, changed(matrices))
    assert binomial_close(is_mirror, 0.5)


def test_rot90_draws_all_four_turns_alike_and_without_rounding(draw, binomial_close):
    matrices = draw("rot90")
    for k in range(4):
        cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][k]
        turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).double()
        assert binomial_close((matrices == turn).flatten(1).all(dim=1), 0.25)


def test_integer_translation_is_whole_pixels_within_an_eighth(draw, binomial_close):
    matrices = draw("translate_int", size=64)
    assert torch.equal(matrices[:, :2, :2], torch.eye(2).double().expand(MANY, 2, 2))
    shift = matrices[:, :2, 2]
    assert torch.equal(shift, shift.round())
    assert shift.abs().max() == 8
    for axis in range(2):
        assert binomial_close(shift[:, axis] == 3, 1 / 16)
        assert binomial_close(shift[:, axis] == -8, 1 / 32)  # the end gets half an interval
    assert abs(torch.corrcoef(shift.T)[0, 1]) < 0.06


def test_scale_is_isotropic_and_log_normal(draw):
    matrices = draw("scale")
    factor = matrices[:, 0, 0]
    assert torch.equal(matrices, torch.diag_embed(torch.stack([factor, factor, factor * 0 + 1], 1)))
    assert factor.log2().std() == pytest.approx(0.2, rel=0.05)
    assert factor.log2().mean() == pytest.approx(0, abs=0.02)


def test_rotation_is_uniform_over_the_circle(draw):
    matrices = draw("rotate")
    linear = matrices[:, :2, :2]
    eye = torch.eye(2).double().expand_as(linear)
    assert torch.allclose(linear @ linear.mT, eye, atol=1e-6)
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
    assert torch.allclose(linear.det(), torch.ones(MANY).double(), atol=1e-6)
    counts = torch.histc(angle.float(), bins=8, min=-math.pi, max=math.pi)
    assert (counts - MANY / 8).abs().max() < 4 * (MANY / 8) ** 0.5


def test_anisotropic_scaling_keeps_the_area(draw):
    matrices = draw("anisotropic")
    assert torch.allclose(matrices[:, 0, 0] * matrices[:, 1, 1], torch.ones(MANY).double())
    assert matrices[:, 0, 0].log2().std() == pytest.approx(0.2, rel=0.05)
    assert not matrices[:, [0, 1], [1, 0]].any()


def test_fractional_translation_is_normal_and_scales_with_the_side(draw):
    small, large = (draw("translate_frac", size=size)[:, :2, 2] for size in (32, 128))
    assert small.std() == pytest.approx(4, rel=0.05)
    assert torch.allclose(large, 4 * small)
    assert abs(torch.corrcoef(small.T)[0, 1]) < 0.06


@pytest.mark.parametrize("p", [0.2, 0.6])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_active_with_probability_p(draw, binomial_close, name, p):
    visible = {"flip_x": 0.5, "flip_y": 0.5, "rot90": 0.75}  # the rest of the draws is "nothing"
    visible["translate_int"] = 1 - 1 / 256
    assert binomial_close(changed(draw(name, p=p)), p * visible.get(name, 1))


def test_operations_are_active_independently(draw, binomial_close):
    one, two = changed(draw("scale", p=0.5)), changed(draw("anisotropic", p=0.5))
    assert binomial_close(one & two, 0.25)


@pytest.mark.parametrize("name", ["scale", "rotate", "translate_frac"])
def test_p_above_one_means_always(draw, name):
    assert changed(draw(name, p=1.7)).all()
    assert torch.equal(draw(name, p=1.7), draw(name, p=1.0))


def test_p_zero_is_exactly_the_identity(draw):
    assert not changed(draw(*OPERATIONS, p=0.0)).any()


def test_operations_follow_each_other_in_the_published_order(draw):
    order = [name for name in OPERATIONS if name != "rotate"]
    product = torch.eye(3).double()
    for name in order:
        product = product @ draw(name, n=50)
    assert torch.allclose(draw(*order, n=50), product, atol=1e-4)


def test_the_anisotropic_scaling_lies_between_the_two_rotations(draw):
    turn, stretch = draw("rotate", n=50), draw("anisotropic", n=50)
    both = draw("rotate", "anisotropic", n=50)
    values = torch.linalg.svdvals(both[:, :2, :2])
    assert torch.allclose(values, torch.linalg.svdvals(stretch[:, :2, :2]), atol=1e-5)
    for wrong in (turn @ stretch, stretch @ turn):
        assert ((both - wrong).abs().amax(dim=(1, 2)) > 1e-3).float().mean() > 0.9


def test_the_generator_moves_on_alike_whatever_is_drawn(source):
    states = []
    for name, p in (("none", 0.0), ("safe", 0.3), ("bgc", 1.0)):
        generator = source()
        draw_matrices(POLICIES[name], 6, 32, p=p, generator=generator)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    assert not torch.equal(states[0], source().get_state())


def test_a_seed_gives_the_same_maps_again(draw):
    assert torch.equal(draw(*OPERATIONS, n=20, seed=3), draw(*OPERATIONS, n=20, seed=3))
    assert not torch.equal(draw(*OPERATIONS, n=20, seed=3), draw(*OPERATIONS, n=20, seed=4))

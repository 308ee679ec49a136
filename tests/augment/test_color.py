"""The color maps against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from defectgen.augment import POLICIES
from defectgen.augment.color import apply_color, draw_color_matrices
from defectgen.errors import ImageError

MANY = 4000
OPERATIONS = ["brightness", "contrast", "luma_flip", "hue", "saturation"]


@pytest.fixture
def draw(only, source):
    """draw(*names, p=1, n=MANY, channels=3): affine color maps of these operations."""

    def build(*names, p=1.0, n=MANY, channels=3, seed=0):
        generator = source(seed)
        return draw_color_matrices(only(*names), n, p=p, generator=generator, channels=channels)

    return build


@pytest.fixture
def colors(source):
    """colors(n): (n, 3, 4, 4) in [-1, 1]."""
    return lambda n: torch.rand(n, 3, 4, 4, generator=source(9)) * 2 - 1


def split(images):
    luma = images.mean(dim=1, keepdim=True)
    return luma, images - luma


def changed(maps):
    return (maps != torch.eye(*maps.shape[1:])).flatten(1).any(dim=1)


def test_brightness_adds_one_number_to_all_channels(draw, colors):
    images = colors(MANY)
    added = apply_color(images, draw("brightness")) - images
    assert torch.allclose(added, added[:, :1, :1, :1].expand_as(added), atol=1e-5)
    assert added[:, 0, 0, 0].std() == pytest.approx(0.2, rel=0.05)


def test_contrast_multiplies_around_grey(draw, colors):
    images, maps = colors(MANY), draw("contrast")
    factor = maps[:, 0, 0]
    assert torch.allclose(apply_color(images, maps), images * factor.view(-1, 1, 1, 1), atol=1e-5)
    assert factor.log2().std() == pytest.approx(0.5, rel=0.05)
    assert factor.log2().mean() == pytest.approx(0, abs=0.05)


def test_luma_flip_mirrors_luma_and_keeps_chroma_on_a_coin(draw, colors, binomial_close):
    images, maps = colors(MANY), draw("luma_flip")
    flipped = changed(maps)
    assert binomial_close(flipped, 0.5)
    luma, chroma = split(images)
    expected = torch.where(flipped.view(-1, 1, 1, 1), -luma + chroma, images)
    assert torch.allclose(apply_color(images, maps), expected, atol=1e-5)


def test_hue_turns_around_the_grey_axis(draw, colors):
    images, maps = colors(MANY), draw("hue")
    axis = torch.full((3,), 1 / math.sqrt(3))
    cross = torch.linalg.cross(torch.eye(3), axis.expand(3, 3), dim=1)
    # Rotations commute with their axis and are the exponential of angle times cross product.
    angle = torch.atan2(
        -(maps[:, :, :3] * cross).sum(dim=(1, 2)) / 2, (maps.diagonal(0, 1, 2).sum(1) - 1) / 2
    )
    rotations = torch.linalg.matrix_exp(angle.view(-1, 1, 1) * -cross)
    assert torch.allclose(maps[:, :, :3], rotations, atol=1e-5)
    assert not maps[:, :, 3].any()
    counts = torch.histc(angle, bins=8, min=-math.pi, max=math.pi)
    assert (counts - MANY / 8).abs().max() < 4 * (MANY / 8) ** 0.5
    result = apply_color(images, maps)
    assert torch.allclose(split(result)[0], split(images)[0], atol=1e-5)
    assert torch.allclose(result.norm(dim=1), images.norm(dim=1), atol=1e-5)


def test_saturation_scales_the_distance_from_grey(draw, colors):
    images = colors(MANY)
    result = apply_color(images, draw("saturation"))
    luma, chroma = split(images)
    factor = split(result)[1].flatten(1).norm(dim=1) / chroma.flatten(1).norm(dim=1)
    assert torch.allclose(result, luma + factor.view(-1, 1, 1, 1) * chroma, atol=1e-4)
    assert factor.log2().std() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("p", [0.2, 0.6])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_active_with_probability_p(draw, binomial_close, name, p):
    share = p / 2 if name == "luma_flip" else p
    assert binomial_close(changed(draw(name, p=p)), share)


def test_operations_follow_each_other_in_the_published_order(draw):
    product = torch.eye(4)
    for name in OPERATIONS:
        square = torch.cat([draw(name, n=40), torch.eye(4)[3:].expand(40, 1, 4)], dim=1)
        product = square @ product
    assert torch.allclose(draw(*OPERATIONS, n=40), product[:, :3], atol=1e-5)


def test_grey_images_are_treated_like_grey_rgb(draw, source):
    grey = torch.rand(30, 1, 4, 4, generator=source()) * 2 - 1
    maps = draw("brightness", "contrast", "luma_flip", n=30)
    one = apply_color(grey, draw(*OPERATIONS, n=30, channels=1))
    three = apply_color(grey.expand(30, 3, 4, 4), maps)
    assert torch.allclose(one.expand_as(three), three, atol=1e-5)
    assert one.shape == grey.shape


@pytest.mark.parametrize("channels", [1, 3])
def test_inactive_images_do_not_change_by_a_bit(draw, source, channels):
    images = torch.randn(50, channels, 4, 4, generator=source())
    assert apply_color(images, draw(*OPERATIONS, p=0.0, n=50, channels=channels)) is images
    maps = draw(*OPERATIONS, p=0.2, n=50, channels=channels)
    still = ~changed(maps)
    result = apply_color(images, maps)
    assert 5 < still.sum() < 45
    assert torch.equal(result[still], images[still])
    assert (result[~still] != images[~still]).flatten(1).any(dim=1).all()


def test_the_generator_moves_on_alike_whatever_is_drawn(source):
    states = []
    for name, p, channels in (("none", 0.0, 3), ("safe", 0.3, 1), ("bgc", 1.0, 3)):
        generator = source()
        draw_color_matrices(POLICIES[name], 6, p=p, generator=generator, channels=channels)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_first_and_second_derivatives(draw, source):
    images = torch.rand(2, 3, 3, 3, generator=source(), dtype=torch.float64, requires_grad=True)
    maps = draw(*OPERATIONS, n=2)
    assert gradcheck(lambda x: apply_color(x, maps), images)
    assert gradgradcheck(lambda x: apply_color(x, maps), images)


def test_values_are_not_clamped_and_half_precision_stays(draw, source):
    images = torch.rand(40, 3, 4, 4, generator=source()).bfloat16()
    result = apply_color(images, draw(*OPERATIONS, n=40))
    assert result.dtype == torch.bfloat16
    assert result.max() > 1.2


def test_other_channel_counts_are_refused(draw):
    with pytest.raises(ImageError, match="1 or 3 channels.*got 4"):
        draw("brightness", n=2, channels=4)
    with pytest.raises(ImageError, match="1 or 3 channels.*got 2"):
        apply_color(torch.zeros(1, 2, 4, 4), torch.eye(2, 3)[None])

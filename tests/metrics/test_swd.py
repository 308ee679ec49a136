"""The distance of patches: known orders, and its parts against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from score_pictures import SIDE, eight_bit, textured

from defectgen.errors import ConfigError
from defectgen.metrics.swd import (
    _blur,
    _distance,
    _patches,
    _pyramid,
    patch_distance,
    swd_scores,
)
from defectgen.rng import generator

REAL = eight_bit(textured(12, 0))


def test_real_is_nearer_to_real_than_to_noise_and_more_noise_is_farther():
    more = textured(12, 1)
    noise = torch.randn(more.shape, generator=generator(2))
    distances = [
        swd_scores(REAL, (more + amount * noise).clamp(0, 1))["swd_generated"]
        for amount in (0.0, 0.05, 0.1)
    ]
    yardstick = swd_scores(REAL, more)["swd_real"]
    assert distances[0] == pytest.approx(yardstick, rel=0.1)
    assert distances[1] > 1.1 * yardstick
    assert distances[2] > 2 * yardstick


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1),
        lambda x: x + 0.1,
        lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1),
    ],
    ids=["blur", "brighter", "gray"],
)
def test_blur_brightness_and_lost_color_are_seen(spoil):
    scores = swd_scores(REAL, spoil(textured(12, 1)))
    assert scores["swd_generated"] > 1.3 * scores["swd_real"]


def test_the_same_arguments_give_the_same_scores():
    assert swd_scores(REAL, textured(7, 1)) == swd_scores(REAL, textured(7, 1))


def test_the_smallest_sets_of_gray_pictures_work():
    scores = swd_scores(eight_bit(textured(2, 0, 1)), textured(1, 5, 1))
    assert min(scores.values()) > 0


def test_the_pyramid_adds_up_to_the_picture():
    images = textured(2, 0)
    fine, coarse = _pyramid(images)
    assert coarse.shape[-1] == 16
    wide = torch.zeros_like(images)
    wide[..., ::2, ::2] = coarse
    assert torch.allclose(fine + _blur(wide, 4.0), images, atol=1e-6)
    flat = torch.full((1, 3, SIDE, SIDE), 0.3)
    assert _pyramid(flat)[0].abs().max() < 1e-6


def test_patches_are_cut_out_of_their_image():
    rows = torch.arange(SIDE * SIDE, dtype=torch.float32).reshape(1, 1, SIDE, SIDE)
    patches = _patches(torch.cat([rows, rows + 10_000]).expand(-1, 2, -1, -1), generator(0))
    assert patches.shape == (128, 2, 7, 7)
    assert torch.equal(patches[:, :, 1:] - patches[:, :, :-1], torch.full((128, 2, 6, 7), 32.0))
    assert (patches[:64] < 10_000).all()
    assert (patches[64:] >= 10_000).all()


def test_the_distance_is_the_mean_one_of_scipy_over_the_same_directions():
    stats = pytest.importorskip("scipy.stats")
    base = torch.randn(40, 2, 3, 3, generator=generator(1))
    others = 0.5 + 2 * torch.randn(40, 2, 3, 3, generator=generator(2))
    directions = torch.randn(18, 256, generator=generator(3))
    directions = directions / directions.norm(dim=0)
    mean, deviation = base.mean((0, 2, 3), keepdim=True), base.std((0, 2, 3), keepdim=True)
    first, second = (((x - mean) / deviation).flatten(1) @ directions for x in (base, others))
    each = [
        stats.wasserstein_distance(a, b)
        for a, b in zip(first.T.numpy(), second.T.numpy(), strict=True)
    ]
    assert _distance(base, others, generator(3)) == pytest.approx(sum(each) / 256, rel=1e-4)


def test_what_cannot_be_compared_is_refused():
    drawn = textured(3, 1)
    for real, generated, match in (
        (REAL[:1], drawn, "at least 2 real"),
        (REAL, drawn[:0], "1 generated"),
        (REAL / 255, drawn, "real: .*float32"),
        (REAL, eight_bit(drawn), "generated: .*uint8"),
        (REAL, drawn[:, :1], r"generated: .*\(3, 32, 32\).*got \(3, 1, 32, 32\)"),
        (REAL[..., :6, :6], drawn[..., :6, :6], "real: .*at least 7"),
        (REAL[..., :16], drawn[..., :16], "real: .*squares"),
    ):
        with pytest.raises(ConfigError, match=match):
            swd_scores(real, generated)


def test_patches_of_sets_of_any_size_are_compared():
    more = textured(5, 1)
    noise = torch.randn(more.shape, generator=generator(2))
    distances = [
        patch_distance(REAL, (more + amount * noise).clamp(0, 1)) for amount in (0.0, 0.05, 0.1)
    ]
    assert distances[0] < distances[1] < distances[2]
    assert patch_distance(REAL, more) == distances[0]
    assert patch_distance(REAL[:2], textured(30, 3)) > 0
    assert patch_distance(REAL[:1], more) > 0
    with pytest.raises(ConfigError, match="at least 1 real"):
        patch_distance(REAL[:0], more)

"""Scores with known values, and orders that any honest score must keep."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from defectgen.batch import DefectBatch
from defectgen.data.images import PairSet
from defectgen.errors import ConfigError
from defectgen.rng import generator
from defectgen.scores import PROTOCOLS, _blur, _patches, _pyramid, score_table, swd_scores

SIDE = 32


def textured(count: int, seed: int, channels: int = 3) -> torch.Tensor:
    """Smooth random pictures (count, channels, SIDE, SIDE) in [0.1, 0.9]."""
    coarse = torch.rand(count, channels, 10, 10, generator=generator(seed, "scores"))
    smooth = F.interpolate(coarse, size=SIDE, mode="bicubic", align_corners=False)
    return (0.1 + 0.8 * smooth).clamp(0.1, 0.9)


def eight_bit(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8)


def square(count: int, first: int = 8, last: int = 16) -> torch.Tensor:
    masks = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., first:last, first:last] = True
    return masks


def pairs(count: int, seed: int = 0, channels: int = 3) -> PairSet:
    images = eight_bit(textured(count, seed, channels))
    return PairSet(images, square(count).to(torch.uint8), tuple(map(str, range(count))), "")


def samples(painted: torch.Tensor, masks: torch.Tensor, amount: float = 0.08) -> DefectBatch:
    """Twins that differ by `amount` exactly where `painted`, labelled with `masks`."""
    normals = textured(len(masks), 5)
    return DefectBatch(normals + amount * painted, masks, normals)


def test_every_score_has_a_protocol_and_is_finite():
    scores = score_table(pairs(6), samples(square(4), square(4)), 2)
    assert list(scores) == list(PROTOCOLS)
    assert all(math.isfinite(value) for value in scores.values())


def test_areas_and_empty_masks_are_counted():
    masks = square(4)
    masks[0] = False
    scores = score_table(pairs(6), samples(masks, masks), 2)
    assert scores["area_real"] == pytest.approx(64 / 1024)
    assert scores["area_generated"] == pytest.approx(0.75 * 64 / 1024)
    assert scores["empty_masks"] == pytest.approx(0.25)


def test_a_mask_that_fits_the_change_is_perfect():
    scores = score_table(pairs(6), samples(square(4), square(4)), 0)
    assert scores["change_iou"] == 1
    assert scores["change_leak"] == 0
    assert scores["background_drift"] == 0


def test_a_shifted_mask_has_the_iou_of_the_two_squares():
    scores = score_table(pairs(6), samples(square(4), square(4, 10, 18)), 0)
    assert scores["change_iou"] == pytest.approx(36 / 92)
    assert scores["change_leak"] == pytest.approx(28 / 64)


def test_a_change_below_the_threshold_is_no_change_but_drifts():
    scores = score_table(pairs(6), samples(~square(4), square(4), amount=5 / 255), 2)
    assert scores["change_iou"] == 0
    assert scores["change_leak"] == 0
    assert scores["background_drift"] == pytest.approx(5, abs=1e-3)


@pytest.mark.parametrize(("radius", "leak"), [(1, (144 - 100) / 144), (2, 0.0)])
def test_leak_begins_beyond_the_radius(radius, leak):
    painted = square(4, 6, 18)  # two pixels beyond the mask on every side
    scores = score_table(pairs(6), samples(painted, square(4)), radius)
    assert scores["change_leak"] == pytest.approx(leak)


def test_scores_that_the_data_cannot_give_are_left_out():
    nothing = torch.zeros(4, 1, SIDE, SIDE, dtype=torch.bool)
    assert "change_iou" not in score_table(pairs(6), samples(nothing, nothing), 2)
    assert "background_drift" not in score_table(pairs(6), samples(nothing, ~nothing), 2)


def test_real_is_nearer_to_real_than_to_noise_and_more_noise_is_farther():
    real = pairs(12)
    more = textured(12, 1)
    noise = torch.randn(more.shape, generator=generator(2))
    distances = [
        swd_scores(real.images, (more + amount * noise).clamp(0, 1))["swd_generated"]
        for amount in (0.0, 0.05, 0.1)
    ]
    yardstick = swd_scores(real.images, more)["swd_real"]
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
    scores = swd_scores(pairs(12).images, spoil(textured(12, 1)))
    assert scores["swd_generated"] > 1.3 * scores["swd_real"]


def test_the_same_arguments_give_the_same_scores():
    real, drawn = pairs(5), samples(square(7), square(7))
    assert score_table(real, drawn, 2) == score_table(real, drawn, 2)


def test_gray_pictures_and_the_smallest_sets_work():
    normals = textured(1, 5, channels=1)
    batch = DefectBatch(normals, square(1), normals)
    assert score_table(pairs(2, channels=1), batch, 0)["swd_real"] > 0


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


def test_what_cannot_be_scored_is_refused():
    good = samples(square(4), square(4))
    with pytest.raises(ConfigError, match="masks and normals"):
        score_table(pairs(6), DefectBatch(good.images, good.masks), 2)
    with pytest.raises(ConfigError, match="of the size"):
        score_table(pairs(6, channels=1), good, 2)
    with pytest.raises(ConfigError, match="at least 2 real"):
        score_table(pairs(1), good, 2)
    with pytest.raises(ConfigError, match="radius"):
        score_table(pairs(6), good, -1)

"""Scores with known values, and orders that any honest score must keep."""

from __future__ import annotations

import math

import pytest
import torch
from score_pictures import SIDE, eight_bit, textured

from defectgen.batch import DefectBatch
from defectgen.data.images import PairSet
from defectgen.errors import ConfigError
from defectgen.rng import generator
from defectgen.scores import PROTOCOLS, score_table


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


def test_the_numbers_of_fixed_tensors_stay():
    """Taken before the parts moved to `defectgen.metrics` (float32, x86-64)."""
    drawn = samples(square(7, 6, 18), square(7))
    noise = 0.03 * torch.randn(7, 3, SIDE, SIDE, generator=generator(9))
    batch = DefectBatch((drawn.images + noise).clamp(0, 1), drawn.masks, drawn.normals)
    expected = {
        "area_real": 0.0625,
        "area_generated": 0.0625,
        "empty_masks": 0.0,
        "change_iou": 0.1891787052154541,
        "change_leak": 0.5757064529734289,
        "background_drift": 7.273546904325485,
        "swd_real": 187.97260988503695,
        "swd_generated": 204.47630155831575,
    }
    assert score_table(pairs(6), batch, 2) == pytest.approx(expected, rel=1e-4)


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


def test_a_change_below_the_threshold_is_no_change_but_drifts():
    scores = score_table(pairs(6), samples(~square(4), square(4), amount=5 / 255), 2)
    assert scores["change_iou"] == 0
    assert scores["change_leak"] == 0
    assert scores["background_drift"] == pytest.approx(5, abs=1e-3)


def test_scores_that_the_data_cannot_give_are_left_out():
    nothing = torch.zeros(4, 1, SIDE, SIDE, dtype=torch.bool)
    assert "change_iou" not in score_table(pairs(6), samples(nothing, nothing), 2)
    assert "background_drift" not in score_table(pairs(6), samples(nothing, ~nothing), 2)


def test_the_same_arguments_give_the_same_scores():
    real, drawn = pairs(5), samples(square(7), square(7))
    assert score_table(real, drawn, 2) == score_table(real, drawn, 2)


def test_gray_pictures_and_the_smallest_sets_work():
    normals = textured(1, 5, channels=1)
    batch = DefectBatch(normals, square(1), normals)
    assert score_table(pairs(2, channels=1), batch, 0)["swd_real"] > 0


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

"""Change maps against loops over pixels, and samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from defectgen.errors import ConfigError
from defectgen.metrics.change import agreement, dilate, drift
from defectgen.rng import generator

SIDE = 32


def square(count: int, first: int = 8, last: int = 16) -> torch.Tensor:
    masks = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., first:last, first:last] = True
    return masks


def gray(count: int, value: float = 0.5, channels: int = 3) -> torch.Tensor:
    return torch.full((count, channels, SIDE, SIDE), value)


def messy(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, normals and masks without any order."""
    draw = generator(1, "change")
    normals = torch.rand(count, 3, SIDE, SIDE, generator=draw)
    noise = torch.randn(normals.shape, generator=draw) * 0.05
    masks = torch.rand(count, 1, SIDE, SIDE, generator=draw) < 0.02
    return (normals + noise).clamp(0, 1), normals, masks


def test_a_mask_that_fits_the_change_is_perfect():
    images = gray(4) + 0.1 * square(4)
    assert agreement(images, gray(4), square(4), 0) == {"change_iou": 1, "change_leak": 0}
    found = drift(images, gray(4), square(4), 2)
    assert found == dict.fromkeys(("background_drift", "drift_ring", "drift_far"), 0) | {
        "drift_far_max": 0
    }


def test_a_shifted_mask_has_the_iou_of_the_two_squares():
    scores = agreement(gray(4) + 0.1 * square(4), gray(4), square(4, 10, 18), 0)
    assert scores["change_iou"] == pytest.approx(36 / 92)
    assert scores["change_leak"] == pytest.approx(28 / 64)


def test_the_iou_is_the_mean_over_samples_with_mask_or_change():
    masks = torch.cat([square(1), square(1), square(1, 0, 0), square(1, 0, 0)])
    painted = torch.cat([square(1), square(1, 10, 18), square(1), square(1, 0, 0)])
    scores = agreement(gray(4) + 0.1 * painted, gray(4), masks, 2)
    assert scores["change_iou"] == pytest.approx((1 + 36 / 92 + 0) / 3)
    # Of the second square all is within 2 px, of the third nothing.
    assert scores["change_leak"] == pytest.approx(64 / 192)


@pytest.mark.parametrize(("radius", "leak"), [(0, 80 / 144), (1, 44 / 144), (2, 0.0)])
def test_leak_begins_beyond_the_radius(radius, leak):
    images = gray(4) + 0.1 * square(4, 6, 18)  # two pixels beyond the mask on every side
    assert agreement(images, gray(4), square(4), radius)["change_leak"] == pytest.approx(leak)


@pytest.mark.parametrize(("levels", "iou"), [(7.9, 0), (8.1, 1)])
def test_a_change_counts_from_8_gray_levels_in_the_mean_over_channels(levels, iou):
    images = gray(2)
    images[:, :1] += 3 * levels / 255 * square(2)  # one channel alone, up
    assert agreement(images, gray(2), square(2), 0)["change_iou"] == iou
    images = gray(2) + levels / 255 * square(2) * torch.tensor([1.0, -1, -1])[:, None, None]
    assert agreement(images, gray(2), square(2), 0)["change_iou"] == iou


def test_agreement_is_what_a_loop_over_pixels_counts():
    images, normals, masks = messy(3)
    ious, leaked, total = [], 0, 0
    for image, normal, mask in zip(images.numpy(), normals.numpy(), masks.numpy(), strict=True):
        changed = np.abs(image - normal).mean(0) > 8 / 255
        ious.append((changed & mask[0]).sum() / (changed | mask[0]).sum())
        rows, columns = np.nonzero(mask[0])
        for y, x in np.argwhere(changed):
            total += 1
            leaked += np.maximum(abs(rows - y), abs(columns - x)).min() > 3
    scores = agreement(images, normals, masks, 3)
    assert scores["change_iou"] == pytest.approx(np.mean(ious), rel=1e-5)
    assert scores["change_leak"] == pytest.approx(leaked / total, rel=1e-5)
    assert 0 < leaked < total


def test_drift_is_what_a_distance_transform_says():
    ndimage = pytest.importorskip("scipy.ndimage")
    images, normals, masks = messy(3)
    difference = (images - normals).abs().mean(1).numpy() * 255
    away = np.stack([ndimage.distance_transform_cdt(~m, "chessboard") for m in masks[:, 0].numpy()])
    expected = {
        "background_drift": difference[away > 0].mean(),
        "drift_ring": difference[(away > 0) & (away <= 4)].mean(),
        "drift_far": difference[away > 4].mean(),
        "drift_far_max": difference[away > 4].max(),
    }
    assert drift(images, normals, masks, 4) == pytest.approx(expected, rel=1e-4)


def test_ring_and_far_field_are_told_apart():
    inside, near = square(2), square(2, 6, 18)
    levels = 40 * inside + 5 * (near & ~inside) + 1 * ~near
    levels[0, :, 0, 0] = 9
    found = drift(gray(2) + levels / 255, gray(2), inside, 2)
    assert found["drift_ring"] == pytest.approx(5, rel=1e-4)
    assert found["drift_far"] == pytest.approx(1 + 8 / (2 * (1024 - 144)), rel=1e-4)
    assert found["drift_far_max"] == pytest.approx(9, rel=1e-4)
    assert found["background_drift"] == pytest.approx((80 * 5 + 880 + 4) / 960, rel=1e-4)


def test_what_the_samples_cannot_give_is_left_out():
    nothing, everything = square(2, 0, 0), square(2, 0, SIDE)
    assert agreement(gray(2), gray(2), nothing, 2) == {"change_leak": 0}
    assert drift(gray(2), gray(2), everything, 2) == {}
    assert set(drift(gray(2), gray(2), nothing, 2)) == {
        "background_drift",
        "drift_far",
        "drift_far_max",
    }
    assert set(drift(gray(2), gray(2), square(2), SIDE)) == {"background_drift", "drift_ring"}
    assert set(drift(gray(2), gray(2), square(2), 0)) == {
        "background_drift",
        "drift_far",
        "drift_far_max",
    }


@pytest.mark.parametrize("radius", [0, 1, 5, 40])
def test_masks_grow_by_a_square(radius):
    ndimage = pytest.importorskip("scipy.ndimage")
    masks = messy(2)[2] & square(2, 4, 30)
    masks[1, 0, 0, SIDE - 1] = True
    size = 2 * radius + 1
    expected = [ndimage.maximum_filter(m, size, mode="constant") for m in masks[:, 0].numpy()]
    assert np.array_equal(dilate(masks, radius)[:, 0].numpy(), expected)


def test_gray_pictures_are_measured():
    images = gray(2, channels=1) + 0.1 * square(2)
    assert agreement(images, gray(2, channels=1), square(2), 0)["change_iou"] == 1


@pytest.mark.parametrize("score", [agreement, drift])
def test_what_cannot_be_compared_is_refused(score):
    images, masks = gray(2), square(2)
    for arguments, match in (
        ((images, gray(3), masks, 1), r"got \(3, 3, 32, 32\) and \(2, 1, 32, 32\)"),
        ((images, images, square(3), 1), r"\(3, 1, 32, 32\)"),
        ((images, images, masks[..., :16], 1), r"\(2, 1, 32, 16\)"),
        ((images, images, masks.float(), 1), "masks: .*float32"),
        ((images * 255, images, masks, 1), "images: .*divide"),
        ((images, (images * 255).byte(), masks, 1), "normals: .*uint8"),
        ((images[:0], images[:0], masks[:0], 1), "images: "),
        ((images, images, masks, -1), "radius: "),
        ((images, images, masks, 1.5), "radius: "),
    ):
        with pytest.raises(ConfigError, match=match):
            score(*arguments)

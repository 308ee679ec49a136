"""The distance of textures against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from defectgen.losses import texture_distance


def normal(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


FILTERS = normal(4, 1, 5, 5, seed=9)


def by_hand(a, b, filters):
    """Mean distance of sorted answers of unit filters, one level, whole images."""
    total = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        for taps in filters.numpy():
            taps = taps / np.sqrt((taps**2).sum())
            answers = []
            for picture in (x, y):
                windows = np.lib.stride_tricks.sliding_window_view(picture, (5, 5), axis=(1, 2))
                answers.append(np.sort((windows * taps[:, None, None]).sum((0, 3, 4)).ravel()))
            total.append(np.abs(answers[0] - answers[1]).mean())
    return np.mean(total)


def test_one_level_is_the_distance_of_the_sorted_answers():
    a, b = normal(2, 3, 12, 12), normal(2, 3, 12, 12, seed=1)
    filters = normal(4, 3, 5, 5, seed=2)
    expected = by_hand(a, b, filters)
    assert float(texture_distance(a, b, filters, levels=1)) == pytest.approx(expected, rel=1e-4)
    assert texture_distance(a, b, 7 * filters, levels=1) == pytest.approx(expected, rel=1e-4)


def test_equal_images_have_none_and_blur_has_some():
    a = normal(2, 1, 32, 32)
    assert texture_distance(a, a, FILTERS) == 0
    assert texture_distance(F.avg_pool2d(a, 3, 1, 1), a, FILTERS) > 0.1


def test_grain_may_lie_anywhere_in_a_window_but_not_beyond():
    """Two halves exchanged: equal as a whole, different in windows."""
    a = normal(1, 1, 64, 64)
    a[..., 32:] *= 0.1
    swapped = a.roll(32, 3)
    whole = texture_distance(swapped, a, FILTERS, levels=1)
    windows = texture_distance(swapped, a, FILTERS, levels=1, window=16)
    assert windows > 5 * whole


def test_another_draw_of_the_same_grain_is_near_and_l1_calls_it_far():
    a, b = normal(1, 1, 64, 64), normal(1, 1, 64, 64, seed=1)
    gray = torch.zeros_like(a)
    assert texture_distance(b, a, FILTERS) < 0.3 * texture_distance(gray, a, FILTERS)
    assert (b - a).abs().mean() > (gray - a).abs().mean()


def test_descent_finds_the_texture():
    target = normal(1, 1, 32, 32)
    image = (0.1 * normal(1, 1, 32, 32, seed=3)).requires_grad_(True)
    optimizer = torch.optim.Adam([image], 0.1)
    first = float(texture_distance(image.detach(), target, FILTERS))
    for step in range(40):
        filters = normal(4, 1, 5, 5, seed=100 + step)
        optimizer.zero_grad()
        texture_distance(image, target, filters).backward()
        optimizer.step()
    assert float(texture_distance(image.detach(), target, FILTERS)) < 0.5 * first


def test_windows_are_images_of_their_own():
    """With filters of one pixel every window is compared as if it were cut out."""
    a, b = normal(2, 1, 16, 16), normal(2, 1, 16, 16, seed=1)
    filters = normal(3, 1, 1, 1, seed=2)
    found = texture_distance(a, b, filters, levels=1, window=8)
    parts = [
        texture_distance(
            a[..., y : y + 8, x : x + 8], b[..., y : y + 8, x : x + 8], filters, levels=1
        )
        for y in (0, 8)
        for x in (0, 8)
    ]
    torch.testing.assert_close(found, torch.stack(parts).mean())


def test_a_periodic_texture_may_be_shifted():
    tile = normal(1, 1, 8, 8)
    image = tile.repeat(1, 1, 5, 5)[..., :36, :36]  # 32 x 32 patches: each place of the tile alike
    moved = tile.roll((3, 5), (2, 3)).repeat(1, 1, 5, 5)[..., :36, :36]
    distance = texture_distance(moved, image, FILTERS, levels=1)
    assert float(distance) < 1e-5
    assert (moved - image).abs().mean() > 0.5


def test_levels_are_averaged_and_end_where_filters_no_longer_fit():
    a, b = normal(1, 1, 32, 32), normal(1, 1, 32, 32, seed=1)
    half = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    fine, coarse = (texture_distance(*pair, FILTERS, levels=1) for pair in ((a, b), half))
    torch.testing.assert_close(texture_distance(a, b, FILTERS, levels=2), (fine + coarse) / 2)
    ten = texture_distance(a, b, FILTERS, levels=10)  # 8 px would be below twice the filter
    torch.testing.assert_close(ten, (fine + coarse) / 2)


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (32, 64)])
def test_windows_reach_every_border(size):
    a = normal(1, 1, *size)
    for part in (slice(-3, None), slice(None, 3)):
        for rows in (True, False):
            b = a.clone()
            b[:, :, part if rows else slice(None), slice(None) if rows else part] = 0
            assert texture_distance(a, b, FILTERS, levels=1, window=16) > 0.01

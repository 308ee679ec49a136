"""Statistics of masks: hand-made shapes, and scipy's labels as the independent definition."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from defectgen.errors import ConfigError
from defectgen.metrics.masks import _runs, compare_masks, mask_statistics
from defectgen.rng import generator


def drawn(*pictures: str) -> torch.Tensor:
    """Masks (N, 1, H, W) from rows of '.' and '#'."""
    rows = [[[c == "#" for c in row] for row in picture.split()] for picture in pictures]
    return torch.tensor(rows)[:, None]


def box(top: int, left: int, height: int, width: int, side: int = 32) -> torch.Tensor:
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    mask[..., top : top + height, left : left + width] = True
    return mask


def noise(count: int, share: float, height: int = 24, width: int = 31) -> torch.Tensor:
    draw = generator(3, "masks", str(share))
    return torch.rand(count, 1, height, width, generator=draw) < share


def blobs(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 1, 8, 8, generator=generator(4, "masks"))
    return F.interpolate(coarse, size=48, mode="bicubic") > 0.6


def spiral(side: int) -> torch.Tensor:
    """One path one pixel wide that turns inward: the worst case of label propagation."""
    mask = np.zeros((side, side), dtype=bool)
    y = x = 0
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    mask[0, 0] = True
    lengths = (side - 1, *(k for j in range(side - 1, 0, -2) for k in (j, j)))
    for turn, length in enumerate(lengths):
        for _ in range(length):
            y, x = y + steps[turn % 4][0], x + steps[turn % 4][1]
            mask[y, x] = True
    return torch.from_numpy(mask)[None, None]


def painted(masks: torch.Tensor) -> list[np.ndarray]:
    """Label maps from our runs, numbered from 1 in each mask."""
    runs = _runs(masks[:, 0])
    labels = np.zeros(masks[:, 0].shape, dtype=int)
    for mask, row, column, length, component in zip(*(r.tolist() for r in runs), strict=True):
        labels[mask, row, column : column + length] = component + 1
    return [np.where(one > 0, one - one[one > 0].min() + 1, 0) for one in labels]


ODD = {
    "diagonal": drawn("#..#  .#.#  ..#.  .#.#"),
    "comb": drawn("#.#.#.#  #.#.#.#  #######"),
    "comb upside down": drawn("#######  #.#.#.#  #.#.#.#"),
    "nested": drawn("#######  #.....#  #.###.#  #.....#  #######"),
    "checkerboard": torch.arange(20)[:, None].add(torch.arange(20)).remainder(2)[None, None] == 0,
    "row ends meet row starts": drawn("..##  ....  ##..  ...#  #..."),
    "one row": drawn("##.#..###"),
    "one column": drawn("# # . # . #"),
    "spiral": spiral(41),
    "noise 0.3": noise(8, 0.3),
    "noise 0.4": noise(8, 0.4),
    "noise 0.55": noise(8, 0.55),
    "blobs": blobs(8),
    "full": torch.ones(2, 1, 5, 6, dtype=torch.bool),
}


@pytest.mark.parametrize("masks", ODD.values(), ids=ODD.keys())
def test_components_are_those_of_scipy(masks):
    ndimage = pytest.importorskip("scipy.ndimage")
    found = mask_statistics(masks).components.tolist()
    for mask, labels, count in zip(masks[:, 0].numpy(), painted(masks), found, strict=True):
        expected, number = ndimage.label(mask, np.ones((3, 3)))
        assert count == number
        # The same partition: every pair of labels that occurs is a pair of one with one.
        pairs = set(zip(expected.ravel().tolist(), labels.ravel().tolist(), strict=True))
        assert len(pairs) == len(np.unique(expected)) == len(np.unique(labels))


def test_a_spiral_is_one_component_and_a_gap_cuts_it():
    whole = spiral(41)
    cut = whole.clone()
    assert bool(whole[..., 20, 0])
    cut[..., 20, 0] = False
    assert mask_statistics(whole).components.tolist() == [1]
    assert mask_statistics(cut).components.tolist() == [2]


def test_the_aspect_is_that_of_the_pixels_of_the_largest_component():
    ndimage = pytest.importorskip("scipy.ndimage")
    masks = torch.cat([blobs(20), F.interpolate(noise(8, 0.3).float(), size=(48, 48)) > 0])
    found = mask_statistics(masks).aspect
    for mask, aspect in zip(masks[:, 0].numpy(), found.tolist(), strict=True):
        labels, number = ndimage.label(mask, np.ones((3, 3)))
        sizes = ndimage.sum_labels(mask, labels, range(1, number + 1))
        where = np.argwhere(labels == 1 + int(np.argmax(sizes))).astype(float)
        covariance = np.cov(where.T, bias=True) + np.eye(2) / 12
        low, high = np.linalg.eigvalsh(covariance)
        assert aspect == pytest.approx(math.sqrt(high / low), rel=1e-5)


@pytest.mark.parametrize(
    ("mask", "aspect"),
    [
        (box(3, 4, 6, 6), 1),
        (box(3, 4, 2, 10), 5),
        (box(20, 30, 12, 1), 12),
        (box(5, 5, 1, 1), 1),
        (torch.eye(10, dtype=torch.bool)[None, None], math.sqrt(2 * 99 + 1)),
        (box(3, 4, 2, 10) | box(20, 20, 4, 4), 5),  # the larger of two
        (box(1, 1, 4, 4) | box(10, 10, 2, 8), 1),  # as large: the first
    ],
)
def test_known_aspects(mask, aspect):
    assert float(mask_statistics(mask).aspect) == pytest.approx(aspect, rel=1e-5)


def test_area_border_empty_and_full():
    nothing = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    masks = torch.cat([box(0, 0, 4, 4), box(1, 1, 30, 30), ~box(1, 1, 30, 30), nothing, ~nothing])
    found = mask_statistics(masks)
    expected = [16 / 1024, 900 / 1024, 124 / 1024, 0, 1]
    assert found.area.tolist() == pytest.approx(expected)
    assert found.border.tolist() == pytest.approx([7 / 16, 0, 1, math.nan, 124 / 1024], nan_ok=True)
    assert found.contact.tolist() == [True, False, True, False, True]
    assert found.empty.tolist() == [False, False, False, True, False]
    assert found.full.tolist() == [False, False, False, False, True]
    assert found.components.tolist() == [1, 1, 1, 0, 1]
    assert found.aspect.isnan().tolist() == [False, False, False, True, False]


def test_the_position_map_is_the_share_of_the_pixels_in_each_cell():
    masks = torch.cat([box(0, 0, 4, 4), box(0, 0, 4, 4), box(8, 12, 8, 4)])  # cells of 4 x 4 px
    expected = torch.zeros(8, 8)
    expected[0, 0], expected[2, 3], expected[3, 3] = 2 / 4, 1 / 4, 1 / 4
    assert torch.allclose(mask_statistics(masks).position, expected)
    assert float(mask_statistics(noise(5, 0.2)).position.sum()) == pytest.approx(1)
    assert float(mask_statistics(noise(5, 0.0)).position.sum()) == 0


def test_a_mask_is_measured_alone(monkeypatch):
    masks = torch.cat([noise(6, 0.1), noise(3, 0.0), noise(6, 0.5)])
    together = mask_statistics(masks)
    alone = [mask_statistics(masks[k : k + 1]) for k in range(len(masks))]
    monkeypatch.setattr("defectgen.metrics.masks.PIXELS", 4 * 24 * 31)
    parted = mask_statistics(masks)
    for field in dataclasses.fields(together):
        if field.name != "position":
            joined = torch.cat([getattr(one, field.name) for one in alone])
            for found in (together, parted):
                assert torch.allclose(joined, getattr(found, field.name), equal_nan=True)


def test_a_view_is_measured_and_not_changed():
    masks = noise(4, 0.4)
    before = masks.clone()
    turned = mask_statistics(masks.transpose(2, 3))
    assert torch.equal(masks, before)
    assert torch.equal(turned.components, mask_statistics(masks).components)


# -- two sets --------------------------------------------------------------------------------------


def test_a_set_compared_with_itself():
    masks = blobs(10)
    scores = compare_masks(masks, masks)
    assert scores["area_ratio"] == 1
    assert scores["position_overlap"] == pytest.approx(1)
    for name in ("area", "components", "aspect", "border", "contact"):
        assert scores[f"{name}_real"] == scores[f"{name}_generated"]


def test_every_number_of_two_known_sets():
    real = torch.cat([box(8, 8, 2, 8), box(8, 8, 8, 2)])
    nothing = box(0, 0, 0, 0)
    generated = torch.cat([box(0, 0, 4, 8) | box(20, 20, 1, 1), box(0, 8, 4, 8), nothing, ~nothing])
    scores = compare_masks(real, generated)
    assert scores == pytest.approx(
        {
            "area_real": 16 / 1024,
            "area_generated": (33 + 32 + 1024) / 4 / 1024,
            "area_ratio": (33 + 32 + 1024) / 4 / 16,
            "empty_masks": 1 / 4,
            "full_masks": 1 / 4,
            "components_real": 1,
            "aspect_real": 4,
            "border_real": 0,
            "contact_real": 0,
            "components_generated": 4 / 3,
            "aspect_generated": (2 * 2 * 1) ** (1 / 3),
            "border_generated": (11 / 33 + 8 / 32 + 124 / 1024) / 3,
            "contact_generated": 1,
            # Real pixels lie in three cells; there, only the full mask has 16 each of 1089.
            "position_overlap": 3 * 16 / 1089,
        },
        rel=1e-5,
    )


def test_the_overlap_of_positions():
    left, right = box(0, 0, 32, 16), box(0, 16, 32, 16)
    both = torch.cat([left, right])
    assert compare_masks(left, right)["position_overlap"] == 0
    assert compare_masks(left, both)["position_overlap"] == pytest.approx(0.5)
    # Where, not how much: the same place with a smaller mask overlaps as well.
    assert compare_masks(box(0, 0, 4, 4), box(1, 1, 2, 2))["position_overlap"] == pytest.approx(1)


def test_what_empty_sets_cannot_give_is_left_out():
    nothing, something = box(0, 0, 0, 0), box(4, 4, 4, 4)
    dead = compare_masks(something, nothing)
    assert dead["empty_masks"] == 1
    assert dead["area_ratio"] == 0
    assert dead["position_overlap"] == 0
    assert {"aspect_real", "components_real"} <= set(dead)
    assert not {"aspect_generated", "components_generated", "border_generated"} & set(dead)
    assert "area_ratio" not in compare_masks(nothing, something)


def test_what_is_no_set_of_masks_is_refused():
    good = box(4, 4, 4, 4)
    for bad, match in (
        (good.float(), "masks: .*float32; compare"),
        (good[0], r"masks: .*\(1, 32, 32\); reshape"),
        (good[:0], r"masks: .*\(0, 1, 32, 32\)"),
        (good.expand(1, 3, 32, 32), r"\(1, 3, 32, 32\)"),
        (good.numpy(), "got ndarray"),
    ):
        with pytest.raises(ConfigError, match=match):
            mask_statistics(bad)
    with pytest.raises(ConfigError, match="real: must be"):
        compare_masks(good.float(), good)
    with pytest.raises(ConfigError, match="generated: must be"):
        compare_masks(good, good[:0])
    with pytest.raises(ConfigError, match=r"one size; got \(32, 32\) and \(16, 16\)"):
        compare_masks(good, good[..., :16, :16])

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from data_trees import photo
from PIL import Image

from defectgen.data.images import load_pairs
from defectgen.data.shapes import (
    DrawnMask,
    Polygon,
    Runs,
    ScaledMask,
    expand,
    fill,
    polygon,
    unroll,
)
from defectgen.data.sources import Unusable, open_picture, read_size


def filled(shape, size):
    mask = np.zeros(size, np.bool_)
    fill(mask, shape)
    return mask


def test_a_rectangle_covers_its_pixels() -> None:
    mask = filled(polygon([8, 5, 18, 5, 18, 15, 8, 15]), (32, 40))
    expected = np.zeros((32, 40), bool)
    expected[5:15, 8:18] = True
    assert np.array_equal(mask, expected)


def test_what_lies_outside_is_cut_off() -> None:
    mask = filled(polygon([-10, -10, 100, -10, 100, 3, -10, 3]), (10, 20))
    assert mask[:3].all()
    assert not mask[3:].any()
    assert not filled(polygon([50, 50, 60, 50, 60, 60]), (10, 20)).any()


def test_pixels_whose_centers_lie_inside_are_marked() -> None:
    """Against the definition, on random triangles."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24] + 0.5
    for _ in range(20):
        corners = rng.uniform(-4, 28, (3, 2))
        sides = []
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            sides.append((bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0)
        inside = np.all(sides, axis=0) | ~np.any(sides, axis=0)
        assert np.array_equal(filled(polygon(list(corners.reshape(-1))), (24, 24)), inside)


def test_concave_and_self_crossing_outlines() -> None:
    notch = filled(polygon([0, 0, 10, 0, 10, 10, 5, 2, 0, 10]), (10, 10))
    assert notch[5, 0]
    assert notch[5, 9]
    assert not notch[9, 5]
    bow = filled(polygon([0, 0, 10, 10, 10, 0, 0, 10]), (10, 10))
    assert not bow[2, 5]
    assert bow[5, 2]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([1, 2, 3, 4], "an outline of 4 numbers"),
        ([1, 2, 3, 4, 5, 6, 7], "an outline of 7 numbers"),
        ([1, 2, 3, 4, 5, math.nan], "the coordinate nan"),
        ([1, 2, 3, 4, 5, math.inf], "the coordinate inf"),
        ([1, 2, 3, 4, 5, 10**400], "the coordinate 1000"),
        ([1, 2, 3, 4, 5, "6"], "the coordinate '6'"),
        ([1, 2, 3, 4, 5, None], "the coordinate None"),
    ],
)
def test_bad_outlines_are_refused(values: list[object], match: str) -> None:
    with pytest.raises(Unusable, match=match) as caught:
        polygon(values)
    assert len(str(caught.value)) < 100


def test_runs_go_down_the_columns() -> None:
    mask = unroll(Runs((3, 2, 1, 6)), (3, 4))
    assert mask.astype(int).tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert unroll(Runs((0, 12)), (3, 4)).all()


def test_compressed_runs_are_those_of_the_coco_tools() -> None:
    """The strings were written by pycocotools 2.0."""
    small = np.zeros((7, 9), bool)
    small[2:5, 3:7] = small[4:6, 1:3] = small[6, 8] = True
    assert np.array_equal(unroll(expand(";250N1100000;N"), (7, 9)), small)
    large = np.zeros((40, 60), bool)
    large[2:5, 3:7] = large[5:30, 20:50] = large[37:39, 1:3] = large[39, 59] = True
    text = "]22V10mN1R100000[`0f0o^O" + "0" * 57 + "Z<XO"
    assert np.array_equal(unroll(expand(text), (40, 60)), large)


@pytest.mark.parametrize("text", ["\x00", "0\u1234", "oooooooo0", "]2o"])
def test_runs_that_cannot_be_read(text: str) -> None:
    with pytest.raises(Unusable, match="has run lengths that"):
        expand(text)


@pytest.mark.parametrize("counts", [(1, 2), (20, -8), (13,), (10**5000, 1)])
def test_runs_have_to_fit(counts: tuple[int, ...]) -> None:
    with pytest.raises(Unusable, match="run lengths"):
        unroll(Runs(counts), (3, 4))


def test_drawn_masks_are_the_union(tmp_path: Path) -> None:
    shapes = [polygon([0, 0, 4, 0, 4, 4, 0, 4]), Runs((40 * 39, 40))]
    drawn = DrawnMask("notes.json (a.png)", shapes, (40, 40))
    pixels = np.asarray(open_picture(drawn))
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels > 0).sum() == 16 + 40
    assert read_size(drawn) == (40, 40)
    image = photo(tmp_path / "a.png", 0)
    assert load_pairs([image], [drawn], resolution=32, channels=3).masks.any()
    huge = DrawnMask("x", shapes, (10**9, 10**9))
    with pytest.raises(Unusable, match="megapixels"):
        open_picture(huge)


def test_shares_are_scaled_to_the_upright_image(tmp_path: Path) -> None:
    image = photo(tmp_path / "a.jpg", 0, (40, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: 40 wide, 80 high
    Image.open(image).save(image, exif=exif)
    drawn = ScaledMask("a.txt", [Polygon(((0, 0), (0.5, 0), (0.5, 0.25), (0, 0.25)))], image)
    pixels = np.asarray(open_picture(drawn))
    assert pixels.shape == (80, 40)
    assert (pixels[:20, :20] == 255).all()
    assert (pixels > 0).sum() == 400

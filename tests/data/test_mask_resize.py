from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from defectgen.data.masks import resize_mask

BoolArray = NDArray[np.bool_]


def blank(side: int = 1024) -> Image.Image:
    return Image.new("1", (side, side))


def drawn(image: Image.Image) -> BoolArray:
    return np.asarray(image)


def connected_parts(mask: BoolArray) -> int:
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = 0
    while left:
        parts += 1
        stack = [left.pop()]
        while stack:
            y, x = stack.pop()
            for cell in [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if cell in left:
                    left.remove(cell)
                    stack.append(cell)
    return parts


def test_same_size_is_left_alone() -> None:
    mask = np.random.default_rng(0).random((48, 48)) > 0.7
    assert np.array_equal(resize_mask(mask, 48), mask)


def test_filled_shapes_are_resized_by_area() -> None:
    mask = np.zeros((256, 256), bool)
    mask[64:128, 32:96] = True
    mask[0:9, 0:8] = True  # just above half of one cell
    small = resize_mask(mask, 16)
    assert small[4:8, 2:6].all()
    assert small[0, 0]
    assert small.sum() == 17


@pytest.mark.parametrize("resolution", [32, 64, 100, 300])
def test_disc_keeps_its_area(resolution: int) -> None:
    image = blank(256)
    ImageDraw.Draw(image).ellipse((40, 60, 180, 200), fill=1)
    mask = drawn(image)
    assert resize_mask(mask, resolution).mean() == pytest.approx(mask.mean(), rel=0.05)


@pytest.mark.parametrize(
    "line",
    [(100, 517, 900, 517), (511, 30, 511, 1000), (50, 80, 950, 980), (50, 80, 950, 530)],
    ids=["horizontal", "vertical", "diagonal", "slanted"],
)
@pytest.mark.parametrize("width", [1, 2])
def test_scratch_stays_one_connected_line(line: tuple[int, ...], width: int) -> None:
    image = blank()
    ImageDraw.Draw(image).line(line, fill=1, width=width)
    small = resize_mask(drawn(image), 64)
    length = max(abs(line[2] - line[0]), abs(line[3] - line[1])) / 16
    assert connected_parts(small) == 1
    assert small.any(axis=1).sum() >= abs(line[3] - line[1]) // 16
    assert small.any(axis=0).sum() >= abs(line[2] - line[0]) // 16
    # About one cell wide; two where it runs along a border between cells.
    assert length - 1 <= small.sum() <= 2.2 * (length + 2)


def test_horizontal_scratch_is_exactly_one_cell_wide() -> None:
    image = blank()
    ImageDraw.Draw(image).line((100, 517, 900, 517), fill=1)
    small = resize_mask(drawn(image), 64)
    assert np.unique(np.argwhere(small)[:, 0]).tolist() == [32]
    assert small[32, 7:56].all()


def test_single_pixel_survives() -> None:
    mask = np.zeros((1024, 1024), bool)
    mask[700, 300] = True
    assert np.argwhere(resize_mask(mask, 32)).tolist() == [[21, 9]]


def test_tail_stays_joined_to_its_blob() -> None:
    image = blank()
    draw = ImageDraw.Draw(image)
    draw.rectangle((96, 416, 351, 671), fill=1)
    draw.line((352, 520, 900, 520), fill=1)
    small = resize_mask(drawn(image), 64)
    assert connected_parts(small) == 1
    assert small[32, 57:].sum() == 0
    assert small[32, 6:56].all()


def test_blob_does_not_grow_a_fringe() -> None:
    mask = np.zeros((1024, 1024), bool)
    mask[96:359, 96:359] = True  # its last 7 rows and columns touch cells by less than a half
    small = resize_mask(mask, 64)
    assert small.sum() == 16 * 16


def test_no_part_of_random_masks_vanishes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        image = blank(512)
        draw = ImageDraw.Draw(image)
        centers = [(64 + 128 * i, 64 + 128 * j) for i in range(4) for j in range(4)]
        for x, y in centers:
            dx, dy = rng.integers(-40, 41, 2)
            draw.line((x, y, x + int(dx), y + int(dy)), fill=1, width=int(rng.integers(1, 6)))
        small = resize_mask(drawn(image), 32)
        assert connected_parts(small) == len(centers)


def test_enlarging_keeps_the_shape() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:20, 5:30] = True
    large = resize_mask(mask, 80)
    assert np.array_equal(large, mask.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("side", [63, 65, 100, 511, 1000])
def test_sides_that_do_not_divide(side: int) -> None:
    mask = np.zeros((side, side), bool)
    mask[: side // 2] = True
    small = resize_mask(mask, 64)
    assert small[:31].all()
    assert not small[33:].any()

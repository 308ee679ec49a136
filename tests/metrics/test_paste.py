"""Pasted defects pixel by pixel, where they may lie, and what they depend on."""

from __future__ import annotations

import pytest
import torch

from defectgen.errors import ConfigError, MaskError
from defectgen.metrics.paste import copy_paste, windows
from defectgen.rng import generator

SIDE = 24


def pictures(count: int, seed: int, channels: int = 3) -> torch.Tensor:
    shape = count, channels, SIDE, SIDE
    return torch.randint(256, shape, generator=generator(seed, "paste"), dtype=torch.uint8)


def box(top: int, left: int, height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[..., top : top + height, left : left + width] = True
    return mask


MASKS = torch.cat([box(2, 3, 4, 5), box(19, 10, 5, 2), box(0, 0, 1, 1), box(8, 8, 12, 12)])
DEFECTS, GOODS = pictures(4, 0), pictures(6, 1)


def corner(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of the box around a mask (1, H, W)."""
    rows, columns = mask[0].nonzero().unbind(1)
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1


def source(mask: torch.Tensor) -> int:
    """Which of MASKS a pasted one is: no two have the same size."""
    sizes = [corner(one)[2:] for one in MASKS]
    return sizes.index(corner(mask)[2:])


@pytest.mark.parametrize("shift", [0, 3, 100])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_every_pixel_comes_from_the_defect_or_from_the_good_image(shift, kind):
    defects, goods = ((p / 255 if kind == "float32" else p) for p in (DEFECTS, GOODS))
    images, masks, normals = copy_paste(defects, MASKS, goods, 40, seed=5, shift=shift)
    assert images.dtype == normals.dtype == getattr(torch, kind)
    assert masks.dtype == torch.bool
    for image, mask, normal in zip(images, masks, normals, strict=True):
        assert any(torch.equal(normal, good) for good in goods)
        pair = source(mask)
        assert int(mask.sum()) == int(MASKS[pair].sum())
        to, back = corner(mask), corner(MASKS[pair])
        for y in range(SIDE):
            for x in range(SIDE):
                if mask[0, y, x]:
                    there = defects[pair, :, y - to[0] + back[0], x - to[1] + back[1]]
                else:
                    there = normal[:, y, x]
                assert torch.equal(image[:, y, x], there)


def test_without_shift_defects_stay_at_their_place():
    _, masks, _ = copy_paste(DEFECTS, MASKS, GOODS, 40, seed=5)
    assert all(torch.equal(mask, MASKS[source(mask)]) for mask in masks)


def test_shifts_reach_their_limit_and_the_border_and_not_more():
    for shift, expected in ((2, {0, 1, 2, 3, 4}), (100, set(range(SIDE - 4 + 1)))):
        _, masks, _ = copy_paste(DEFECTS[:1], MASKS[:1], GOODS, 400, seed=0, shift=shift)
        assert {corner(mask)[0] for mask in masks} == expected
        lefts = {corner(mask)[1] for mask in masks}
        assert lefts == (set(range(1, 6)) if shift == 2 else set(range(SIDE - 5 + 1)))


def test_a_result_depends_on_its_own_seed_only():
    long = copy_paste(DEFECTS, MASKS, GOODS, 9, seed=20, shift=4)
    short = copy_paste(DEFECTS, MASKS, GOODS, 3, seed=24, shift=4)
    for many, few in zip(long, short, strict=True):
        assert torch.equal(many[4:7], few)
    other = copy_paste(DEFECTS, MASKS, GOODS, 9, seed=29, shift=4)
    assert not torch.equal(long[0], other[0])


def test_pairs_and_good_images_do_not_depend_on_the_shift_and_all_are_used():
    still = copy_paste(DEFECTS, MASKS, GOODS, 200, seed=0)
    moved = copy_paste(DEFECTS, MASKS, GOODS, 200, seed=0, shift=5)
    assert torch.equal(still[2], moved[2])
    pairs = [source(mask) for mask in still[1]]
    assert pairs == [source(mask) for mask in moved[1]]
    used = [pairs.count(pair) for pair in range(4)]
    assert min(used) > 25  # 50 expected
    goods = [sum(torch.equal(n, good) for n in still[2]) for good in GOODS]
    assert sum(goods) == 200
    assert min(goods) > 12  # 33 expected


def test_inputs_and_global_random_state_are_left_alone():
    before, state = (DEFECTS.clone(), MASKS.clone(), GOODS.clone()), torch.get_rng_state()
    images, masks, normals = copy_paste(DEFECTS, MASKS, GOODS, 5, seed=0)
    for result in (images, masks, normals):
        result.zero_()
    assert all(map(torch.equal, before, (DEFECTS, MASKS, GOODS)))
    assert torch.equal(state, torch.get_rng_state())


def test_what_cannot_be_pasted_is_refused():
    def attempt(images=DEFECTS, masks=MASKS, goods=GOODS, n=2, **options):
        copy_paste(images, masks, goods, n, **({"seed": 0} | options))

    for arguments, match in (
        ({"masks": MASKS[:3]}, r"masks: .*\(4, 1, 24, 24\)"),
        ({"masks": MASKS.byte()}, "masks: .*uint8"),
        ({"images": DEFECTS[0]}, r"images: .*\(3, 24, 24\)"),
        ({"images": DEFECTS.long()}, "images: .*int64"),
        ({"images": DEFECTS.numpy()}, "images: .*ndarray"),
        ({"goods": GOODS[:0]}, r"goods: .*\(0, 3, 24, 24\)"),
        ({"goods": GOODS / 255}, "goods: must be torch.uint8.*float32"),
        ({"goods": GOODS[..., :20]}, r"goods: .*\(3, 24, 20\)"),
        ({"goods": GOODS[:, :1]}, r"goods: .*\(1, 24, 24\)"),
        ({"n": 0}, "n: "),
        ({"seed": -1}, "seed: "),
        ({"shift": -1}, "shift: "),
    ):
        with pytest.raises(ConfigError, match=match):
            attempt(**arguments)
    empty = MASKS.clone()
    empty[1:3] = False
    with pytest.raises(MaskError, match=r"empty ones at \[1, 2\]"):
        attempt(masks=empty)


# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "size", "top", "left"),
    [
        (box(8, 10, 4, 2), 8, 6, 7),  # centers of mask and window fall together
        (box(8, 10, 3, 3), 7, 6, 8),
        (box(0, 20, 2, 2), 8, 0, 16),  # moved inside
        (box(22, 0, 2, 2), 8, 16, 0),
        (box(0, 0, 0, 0), 8, 8, 8),  # empty: the middle
        (box(0, 0, 0, 0), SIDE, 0, 0),
        (box(5, 5, 1, 1), 1, 5, 5),
        (box(4, 4, 2, 2) | box(14, 4, 2, 2), 6, 7, 2),  # between two parts
    ],
)
def test_windows_lie_around_the_center_of_mass(mask, size, top, left):
    images = pictures(1, 2)
    cut = windows(images, mask, size)
    assert torch.equal(cut, images[..., top : top + size, left : left + size])


def test_each_image_has_its_own_window():
    ndimage = pytest.importorskip("scipy.ndimage")
    masks = torch.rand(20, 1, SIDE, SIDE, generator=generator(3)) < 0.01
    masks[:, 0, 3, 4] = True
    images = pictures(20, 2) / 255
    cut = windows(images, masks, 9)
    assert cut.shape == (20, 3, 9, 9)
    assert cut.dtype == torch.float32
    for image, mask, found in zip(images, masks[:, 0].numpy(), cut, strict=True):
        top, left = (
            min(max(int(center - 4 + 0.5), 0), SIDE - 9) for center in ndimage.center_of_mass(mask)
        )
        assert torch.equal(found, image[:, top : top + 9, left : left + 9])


def test_windows_of_an_oblong_image():
    images = pictures(1, 2)[..., :16, :]
    cut = windows(images, box(2, 20, 2, 2)[..., :16, :], 16)
    assert torch.equal(cut, images[..., 8:])


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="size: .*from 1 to 24"):
        windows(DEFECTS, MASKS, 25)
    with pytest.raises(ConfigError, match="masks: "):
        windows(DEFECTS, MASKS[:2], 8)
    with pytest.raises(ConfigError, match="images: "):
        windows(DEFECTS[0], MASKS, 8)

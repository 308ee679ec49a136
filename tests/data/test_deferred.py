from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_trees import mask, photo, spot
from PIL import Image
from sample_pictures import noise, save

from defectgen.data.deferred import AnyClass, SquareImage, SquareMask, square_image, square_mask
from defectgen.data.images import load_images, load_pairs
from defectgen.data.sources import Unusable, open_picture, read_size
from defectgen.errors import ImageError


@pytest.mark.parametrize("turned", [False, True])
def test_padding_repeats_the_border_and_cropping_takes_the_middle(turned: bool) -> None:
    photo_ = np.ascontiguousarray(noise(60)[:41])
    pixels = np.ascontiguousarray(photo_.transpose(1, 0, 2)) if turned else photo_
    image = Image.fromarray(pixels)
    padded = np.asarray(square_image(image, "pad"))
    padded = padded.transpose(1, 0, 2) if turned else padded
    assert padded.shape == (60, 60, 3)
    assert (padded[9:50] == photo_).all()
    assert (padded[:9] == photo_[:1]).all()
    assert (padded[50:] == photo_[-1:]).all()
    cropped = np.asarray(square_image(image, "crop"))
    cropped = cropped.transpose(1, 0, 2) if turned else cropped
    assert np.array_equal(cropped, photo_[:, 9:50])


def test_masks_are_moved_like_their_photos() -> None:
    drawn = spot((40, 61)) > 0
    as_photo = Image.fromarray(drawn.astype(np.uint8))
    for square in ("pad", "crop"):
        moved = np.asarray(square_image(as_photo, square)) > 0
        assert np.array_equal(square_mask(drawn, square), moved)
    touching = np.ones((40, 60), bool)
    assert square_mask(touching, "pad").sum() == 40 * 60  # what is added is background


def test_square_pictures_stay_as_they_are() -> None:
    image = Image.fromarray(noise())
    assert square_image(image, "pad") is image
    assert square_mask(spot() > 0, "crop").shape == (40, 40)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_every_mode_can_become_square(tmp_path: Path, mode: str) -> None:
    gray = noise(64, channels=1)[:48]
    if mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(gray).convert(mode)
    image.save(tmp_path / "a.png")
    upright = np.zeros((64, 64), np.uint8)
    upright[8:56] = np.asarray(image.convert("L")) if mode != "I;16" else gray
    made = SquareImage(tmp_path / "a.png", "pad")
    assert read_size(made) == (64, 64)
    found = load_images([made], resolution=64, channels=3).images[0]
    assert np.array_equal(found[0, 8:56].numpy(), upright[8:56])


def test_they_are_read_when_they_are_needed(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 0, (40, 60))
    made = SquareImage(path, "crop")
    photo(path, 1, (40, 60))
    assert np.array_equal(np.asarray(made.open()), noise(60, seed=1)[:40, 10:50])
    path.unlink()
    assert made.size() is None
    with pytest.raises(ImageError, match=r"a\.png: does not exist"):
        load_images([made], resolution=32, channels=3)


def test_pairs_of_squares(tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png", 0, (40, 64))
    drawn = mask(tmp_path / "a_mask.png", spot((40, 64), 1) | spot((40, 64), 3, at=22))
    pair = [SquareImage(image, "pad")], [SquareMask(AnyClass(drawn), "pad")]
    found = load_pairs(*pair, resolution=64, channels=3)
    assert found.names == ("a.png",)
    assert found.masks.sum() == 200
    assert str(pair[1][0]) == str(drawn)


def test_any_class_takes_alpha_and_depth_and_refuses_the_rest(tmp_path: Path) -> None:
    values = spot(value=2)
    alpha = np.full_like(values, 255)
    Image.fromarray(np.stack([values, alpha], axis=2), "LA").save(tmp_path / "la.png")
    Image.fromarray(values.astype(np.uint16) * 300).save(tmp_path / "deep.png")
    Image.fromarray(np.stack([values] * 3 + [alpha], axis=2)).save(tmp_path / "rgba.png")
    for name in ("la.png", "deep.png", "rgba.png"):
        made = AnyClass(tmp_path / name)
        assert np.array_equal(np.asarray(made.open()), spot())
        assert made.size() == (40, 40)
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(Unusable, match="has the PIL mode F"):
        open_picture(AnyClass(tmp_path / "float.tif"))
    save(tmp_path / "empty.png", values * 0)
    assert not np.asarray(AnyClass(tmp_path / "empty.png").open()).any()

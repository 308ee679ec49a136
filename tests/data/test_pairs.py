from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import Pixels, noise, save

from defectgen.data.deferred import AnyClass
from defectgen.data.images import load_pairs
from defectgen.errors import DataWarning, ImageError, MaskError


def spot(side: int = 40, at: int = 8) -> Pixels:
    mask = np.zeros((side, side), np.uint8)
    mask[at : at + side // 4, at : at + side // 4] = 255
    return mask


def test_pairs_from_every_source_are_equal(tmp_path: Path) -> None:
    images, masks = [noise(seed=i) for i in range(3)], [spot(at=4 * i) for i in range(3)]
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    paths = [save(tmp_path / "i" / f"{i}.png", image) for i, image in enumerate(images)]
    drawn = [save(tmp_path / "m" / f"{i}_mask.png", mask) for i, mask in enumerate(masks)]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    flat = torch.from_numpy(np.stack(masks))
    expected = load_pairs(images, masks, resolution=32, channels=3)
    assert expected.images.shape == (3, 3, 32, 32)
    assert expected.masks.shape == (3, 1, 32, 32)
    assert expected.masks.dtype == torch.uint8
    assert expected.masks.unique().tolist() == [0, 1]
    assert expected.masks[1, 0, 4:10, 4:10].all()
    sources_of_both = [
        (tmp_path / "i", str(tmp_path / "m")),
        (paths, drawn),
        ([Image.open(path) for path in paths], [Image.open(path) for path in drawn]),
        (batch, flat),
        (batch.float() / 255, flat[:, None] > 0),
        (images, (flat > 0).float().numpy()),
        (batch.numpy(), [mask > 0 for mask in masks]),
        (paths, (flat > 0).long()),
    ]
    for left, right in sources_of_both:
        found = load_pairs(left, right, resolution=32, channels=3)  # type: ignore[arg-type]
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.masks, expected.masks)
        assert found.digest == expected.digest


def test_masks_with_one_channel_may_be_of_any_type() -> None:
    expected = load_pairs([noise()], [spot()], resolution=32, channels=3)
    for mask in (
        spot()[:, :, None],
        spot()[:, :, None] > 0,
        (spot()[:, :, None] > 0).astype(float),
    ):
        found = load_pairs([noise()], [mask], resolution=32, channels=3)
        assert torch.equal(found.masks, expected.masks)


def test_a_photo_that_exif_turns_and_a_mask_that_it_does_not(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(noise()).save(tmp_path / "plain.jpg")
    Image.fromarray(spot()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(spot()).save(tmp_path / "plain.png")
    for image, mask in (("turned", "plain"), ("plain", "turned")):
        pair = [tmp_path / f"{image}.jpg"], [tmp_path / f"{mask}.png"]
        with pytest.warns(
            DataWarning, match=r"masks: 1 of 1 .* are not turned by EXIF as the photo"
        ):
            load_pairs(*pair, resolution=32, channels=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("turned", "plain"):
            pair = [tmp_path / f"{name}.jpg"], [tmp_path / f"{name}.png"]
            load_pairs(*pair, resolution=32, channels=3)
        load_pairs([noise()], [Image.fromarray(spot())], resolution=32, channels=3)
        turned = [tmp_path / "turned.jpg"], [AnyClass(tmp_path / "turned.png")]
        load_pairs(*turned, resolution=32, channels=3)
        exif[0x0112] = 0  # no number of EXIF: turns nothing
        Image.fromarray(noise()).save(tmp_path / "zero.jpg", exif=exif)
        load_pairs([tmp_path / "zero.jpg"], [tmp_path / "plain.png"], resolution=32, channels=3)


def test_only_what_is_bad_is_counted() -> None:
    pairs = [noise(), noise()[:33], noise(seed=1)], [spot()] * 3
    with pytest.raises(ImageError, match="^defect_imgs: all must be usable; got 1 bad of 3"):
        load_pairs(*pairs, resolution=32, channels=3)


def test_pair_digest_sees_masks() -> None:
    one_way = load_pairs([noise()], [spot(at=4)], resolution=32, channels=3)
    other = load_pairs([noise()], [spot(at=12)], resolution=32, channels=3)
    assert one_way.digest != other.digest
    assert torch.equal(one_way.images, other.images)


def test_own_output_passes_unchanged() -> None:
    first = load_pairs([noise(32)], [spot(32)], resolution=None, channels=3)
    again = load_pairs(first.images, first.masks, resolution=None, channels=3)
    assert again.digest == first.digest


def test_numbers_must_agree() -> None:
    with pytest.raises(MaskError, match="as many as the images, 2; got 1"):
        load_pairs([noise(), noise(seed=1)], [spot()], resolution=32, channels=3)


def test_masks_are_required() -> None:
    with pytest.raises(MaskError, match="one per image is needed; got None"):
        load_pairs([noise()], None, resolution=32, channels=3)  # type: ignore[arg-type]


def test_folder_with_a_list_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise())
    with pytest.raises(MaskError, match="got a folder of images and no folder of masks"):
        load_pairs(tmp_path, [spot()], resolution=32, channels=3)
    with pytest.raises(MaskError, match="got no folder of images and a folder of masks"):
        load_pairs([noise()], tmp_path, resolution=32, channels=3)


def test_all_size_mismatches_are_listed() -> None:
    images = [noise(seed=i) for i in range(3)]
    with pytest.raises(MaskError, match="^masks: all must be usable; got 2 bad of 3") as caught:
        load_pairs(images, [spot(64), spot(), spot(48)], resolution=32, channels=3)
    text = str(caught.value)
    assert "[0]: is 64x64, but its image [0] is 40x40: draw masks at the size" in text
    assert "[2]: is 48x48, but its image [2] is 40x40" in text


def test_bad_masks_are_listed() -> None:
    empty, inverted = spot() * 0, 255 - spot()
    images = [noise(seed=i) for i in range(3)]
    with pytest.raises(MaskError, match="^masks: .* got 2 bad of 3") as caught:
        load_pairs(images, [empty, spot(), inverted], resolution=32, channels=3)
    assert "[0]: is empty" in str(caught.value)
    assert "[2]: marks 94%" in str(caught.value)


def test_bad_images_and_masks_are_listed_together() -> None:
    images = [noise()[:33], noise(seed=1)]
    with pytest.raises(ImageError, match="^defect_imgs, masks: .* got 2 bad of 4") as caught:
        load_pairs(images, [spot(), spot() * 0], resolution=32, channels=3)
    assert "image [0]: is 40x33, not square" in str(caught.value)
    assert "mask [1]: is empty" in str(caught.value)


def test_jpeg_masks_are_warned_about_once() -> None:
    soft = spot()
    soft[0, :2], soft[10, 10] = 3, 250
    images = [noise(seed=i) for i in range(2)]
    with pytest.warns(DataWarning, match=r"masks: 2 of 2 .* look like JPEG masks") as caught:
        found = load_pairs(images, [soft, soft], resolution=32, channels=3)
    assert len(caught) == 1
    assert found.masks[0, 0, 0, 0] == 0


def test_scratch_of_one_pixel_survives_the_funnel() -> None:
    scratch = np.zeros((1024, 1024), np.uint8)
    scratch[500, 100:900] = 255
    found = load_pairs([noise(1024)], [scratch], resolution=64, channels=3)
    assert found.masks[0, 0, 31].sum() == 50  # 800 pixels / 16
    assert found.masks.sum() == 50


def test_real_masks_keep_about_their_area(data_dir: Path) -> None:
    root = data_dir / "hazelnut_toy"
    folders = root / "test" / "colour", root / "ground_truth" / "colour"
    large = load_pairs(*folders, resolution=256, channels=3)
    small = load_pairs(*folders, resolution=64, channels=3)
    ratio = small.masks.float().mean(dim=(1, 2, 3)) / large.masks.float().mean(dim=(1, 2, 3))
    assert len(large.images) == 17
    assert ((ratio > 0.9) & (ratio < 1.1)).all()


def test_two_valued_pictures_of_the_size_itself_warn_of_nothing() -> None:
    images = [noise(seed=i) for i in range(2)]
    masks = [Image.fromarray(spot(at=4 * i)).convert("1") for i in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_pairs(images, masks, resolution=32, channels=3)
        whole = load_pairs([noise(32)], [Image.fromarray(spot(32) > 0)], resolution=32, channels=3)
    assert found.masks.any()
    assert whole.masks.sum() == 64

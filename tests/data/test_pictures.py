from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sample_pictures import load, noise, one, refused

from defectgen.errors import DataWarning, ImageError


def test_gray_is_repeated_or_kept() -> None:
    gray = noise(32, channels=1)
    expected = torch.from_numpy(gray.copy())
    for source in (gray, gray[..., None], Image.fromarray(gray)):
        assert torch.equal(one(source, channels=1), expected[None])
        assert torch.equal(one(source), expected.expand(3, 32, 32))
    assert torch.equal(load(gray[None, None]).images[0], expected.expand(3, 32, 32))


def test_rgb_for_one_channel_only_if_it_is_gray() -> None:
    gray = noise(32, channels=1)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    assert torch.equal(one(rgb, channels=1), torch.from_numpy(gray.copy())[None])
    rgb[5, 5, 0] ^= 1
    refused(rgb, "is in color, but channels=1", channels=1)
    with pytest.raises(ImageError, match="is in color, but channels=1"):
        load(rgb.transpose(2, 0, 1)[None], channels=1)


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(noise(32)).quantize(16)
    image.save(tmp_path / "p.png")
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert image.mode == "P"
    assert torch.equal(one(image), expected)
    assert torch.equal(one(tmp_path / "p.png"), expected)


def test_one_bit_becomes_black_and_white() -> None:
    found = one(Image.fromarray(noise(32, channels=1) > 128), channels=1)
    assert found.unique().tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_if_opaque_and_refused_otherwise(mode: str) -> None:
    base = noise(32, channels=3 if mode == "RGBA" else 1)
    image = Image.fromarray(base).convert(mode)
    assert torch.equal(one(image), one(base))
    pixel = image.getpixel((3, 4))
    image.putpixel((3, 4), (*pixel[:-1], 254))  # type: ignore[index]
    refused(image, "transparent pixels: put it on its background")


def test_palette_with_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(noise(32)).quantize(16)
    image.save(tmp_path / "p.png", transparency=int(np.asarray(image)[0, 0]))
    refused(tmp_path / "p.png", "transparent pixels")


def test_array_with_four_channels_is_rgba() -> None:
    rgba = np.dstack([noise(32), np.full((32, 32), 255, np.uint8)])
    assert torch.equal(one(rgba), one(noise(32)))
    rgba[0, 0, 3] = 0
    refused(rgba, "transparent pixels")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    deep = noise(32, channels=1).astype(np.uint16) * 257
    deep[0, :4] = (0, 128, 129, 65535)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(deep).save(path)
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
    found = one(path, channels=1)[0]
    assert found[0, :4].tolist() == [0, 0, 1, 255]
    assert np.array_equal(found[1:].numpy(), noise(32, channels=1)[1:])


def test_twelve_bits_in_sixteen_are_warned_about() -> None:
    deep = noise(32, channels=1).astype(np.uint16) * 16
    with pytest.warns(DataWarning, match=r"1 of 1 \(\[0\]\) have 16 bits but no value above 4095"):
        one(Image.fromarray(deep))


def test_eight_bits_in_sixteen_would_be_black() -> None:
    low = noise(32, channels=1).astype(np.uint16)
    refused(Image.fromarray(low), "16 bits but no value above 255")
    assert one(Image.fromarray(low * 0)).eq(0).all()  # black is black in any number of bits


def test_a_picture_that_is_nearly_black_is_warned_about() -> None:
    """As color with 12 of 16 bits is, of which Pillow keeps the upper ones."""
    dark = noise(32) // 17
    assert dark.max() == 15
    with pytest.warns(DataWarning, match="have no value above 15 of 255, which is nearly black"):
        one(dark)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one(np.maximum(dark, 16))


@pytest.mark.parametrize(
    ("mode", "advice"),
    [("CMYK", "color profile"), ("I", "8 or 16 bits"), ("F", "8 or 16 bits"), ("HSV", "to RGB")],
)
def test_modes_without_a_sure_meaning(mode: str, advice: str) -> None:
    channels = 3 if mode in ("CMYK", "HSV") else 1
    image = Image.fromarray(noise(32, channels)).convert(mode)
    refused(image, f"PIL mode {mode}: .*{advice}")


def test_cmyk_file(tmp_path: Path) -> None:
    Image.fromarray(noise()).convert("CMYK").save(tmp_path / "c.jpg")
    refused(tmp_path / "c.jpg", "c.jpg: has the PIL mode CMYK")


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((40, 40), np.uint16), "array of uint16: .* divide 16-bit values by 257"),
        (np.zeros((40, 40, 3), np.float32), "array of float32: convert it to uint8"),
        (np.zeros((3, 40, 40), np.uint8), r"shape \(3, 40, 40\): it must be HW or HWC"),
        (np.zeros((40,), np.uint8), r"shape \(40,\)"),
        (np.zeros((0, 0, 3), np.uint8), "without any pixel"),
    ],
)
def test_wrong_arrays(array: NDArray[np.generic], match: str) -> None:
    refused(array, match)

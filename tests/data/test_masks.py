from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from defectgen.data.masks import decode_mask, list_masks
from defectgen.data.sources import Unusable
from defectgen.errors import MaskError

BoolArray = NDArray[np.bool_]


@pytest.fixture
def blob() -> BoolArray:
    mask = np.zeros((48, 64), bool)
    mask[10:30, 20:45] = True
    mask[12, 22] = False
    return mask


def gray(mask: BoolArray, back: int, front: int) -> Image.Image:
    return Image.fromarray(np.where(mask, front, back).astype(np.uint8))


def colored(mask: BoolArray, back: tuple[int, ...], front: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.where(mask[..., None], front, back).astype(np.uint8))


def palette(indices: NDArray[np.uint8], colors: list[int]) -> Image.Image:
    image = Image.fromarray(indices).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(colors)
    return image


def same(value: Path | Image.Image | NDArray[np.generic], mask: BoolArray) -> bool:
    decoded, remark = decode_mask(value)
    return remark is None and decoded.dtype == np.bool_ and np.array_equal(decoded, mask)


@pytest.mark.parametrize("front", [255, 1, 2, 20, 254])
def test_gray_with_background_zero(blob: BoolArray, front: int) -> None:
    assert same(gray(blob, 0, front), blob)


def test_one_bit(blob: BoolArray, tmp_path: Path) -> None:
    image = Image.fromarray(blob)
    assert image.mode == "1"
    image.save(tmp_path / "m.png")
    assert same(image, blob)
    assert same(tmp_path / "m.png", blob)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_deep_images(blob: BoolArray, dtype: type) -> None:
    image = Image.fromarray(np.where(blob, 65535, 0).astype(dtype))
    assert image.mode.startswith("I")
    assert same(image, blob)


@pytest.mark.parametrize(
    "colors",
    [[0, 0, 0, 255, 255, 255], [0, 0, 0, 128, 0, 0], [68, 1, 84, 253, 231, 37]],
    ids=["gray", "red", "neither black"],
)
def test_palette_is_read_through_its_indices(
    blob: BoolArray, colors: list[int], tmp_path: Path
) -> None:
    image = palette(blob.astype(np.uint8), colors)
    image.save(tmp_path / "m.png")
    assert same(image, blob)
    assert same(tmp_path / "m.png", blob)


def test_palette_with_a_transparent_background_entry(blob: BoolArray, tmp_path: Path) -> None:
    palette(blob.astype(np.uint8), [0, 0, 0, 255, 0, 0]).save(tmp_path / "m.png", transparency=0)
    assert same(tmp_path / "m.png", blob)


def test_palette_whose_high_index_is_used(blob: BoolArray) -> None:
    colors = [value for index in range(256) for value in (index, index, index)]
    assert same(palette(np.where(blob, 15, 0).astype(np.uint8), colors), blob)


def test_reordered_palette_is_ambiguous(blob: BoolArray) -> None:
    with pytest.raises(Unusable, match="palette indices 0 and 1, which do not tell"):
        decode_mask(palette(blob.astype(np.uint8), [255, 255, 255, 0, 0, 0]))


def test_palette_class_map(blob: BoolArray) -> None:
    indices = blob.astype(np.uint8)
    indices[0, 0] = 2
    colors = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    with pytest.raises(Unusable, match="3 palette indices .* pass one class at a time"):
        decode_mask(palette(indices, colors))


def test_rgb_with_equal_channels_or_two_colors(blob: BoolArray) -> None:
    assert same(colored(blob, (0, 0, 0), (255, 255, 255)), blob)
    assert same(colored(blob, (0, 0, 0), (255, 0, 0)), blob)


def test_rgb_with_two_colors_neither_black(blob: BoolArray) -> None:
    with pytest.raises(Unusable, match="#0000ff and #ff0000, neither black"):
        decode_mask(colored(blob, (0, 0, 255), (255, 0, 0)))


def test_colored_class_map(blob: BoolArray) -> None:
    pixels = np.array(colored(blob, (0, 0, 0), (255, 0, 0)))
    pixels[0, 0] = (0, 255, 0)
    with pytest.raises(Unusable, match="3 colors instead of two: if they are classes"):
        decode_mask(Image.fromarray(pixels))


@pytest.mark.parametrize("front", [(255, 255, 255, 255), (255, 0, 0, 255)])
def test_opaque_alpha_is_ignored(blob: BoolArray, front: tuple[int, ...]) -> None:
    assert same(colored(blob, (0, 0, 0, 255), front), blob)


def test_opaque_gray_with_alpha(blob: BoolArray) -> None:
    assert same(gray(blob, 0, 255).convert("LA"), blob)


def test_transparent_alpha_is_refused(blob: BoolArray) -> None:
    with pytest.raises(Unusable, match="transparent pixels, so alpha and color"):
        decode_mask(colored(blob, (0, 0, 0, 0), (255, 255, 255, 255)))
    image = gray(blob, 0, 255).convert("LA")
    image.putpixel((0, 0), (0, 254))
    with pytest.raises(Unusable, match="transparent"):
        decode_mask(image)


@pytest.mark.parametrize("quality", [75, 90, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_cut_with_a_remark(tmp_path: Path, quality: int, mode: str) -> None:
    image = Image.new("L", (256, 256))
    draw = ImageDraw.Draw(image)
    draw.ellipse((60, 60, 120, 140), fill=255)
    draw.line((10, 10, 240, 200), fill=255, width=3)
    image.convert(mode).save(tmp_path / "m.jpg", quality=quality)
    decoded, remark = decode_mask(tmp_path / "m.jpg")
    assert remark is not None
    assert "use PNG" in remark
    assert np.array_equal(decoded, np.asarray(image) > 0)


def test_blurred_mask_is_refused(blob: BoolArray) -> None:
    image = gray(blob, 0, 255).resize((160, 120), Image.Resampling.BICUBIC)
    with pytest.raises(Unusable, match="gray values .* if the mask is blurred, threshold it"):
        decode_mask(image)


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 1, 255), (0, 128, 255), (0, 50, 100, 200)])
def test_gray_class_map_is_never_taken_for_jpeg(values: tuple[int, ...]) -> None:
    pixels = np.zeros((32, 32), np.uint8)
    for index, value in enumerate(values):
        pixels[index] = value
    with pytest.raises(Unusable, match=f"{len(values)} gray values .* pass one class at a time"):
        decode_mask(Image.fromarray(pixels))


def test_two_values_without_zero(blob: BoolArray) -> None:
    with pytest.raises(Unusable, match="values 1 and 2, without 0 as background"):
        decode_mask(gray(blob, 1, 2))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32, np.float64])
def test_empty_is_refused(dtype: type) -> None:
    with pytest.raises(Unusable, match="is empty"):
        decode_mask(np.zeros((32, 32), dtype))


def test_inverted_and_full_are_refused(blob: BoolArray) -> None:
    small = np.zeros((32, 32), bool)
    small[:4, :4] = True
    with pytest.raises(Unusable, match="marks 98% of the picture: .* invert it"):
        decode_mask(gray(~small, 0, 255))
    for full in (gray(blob | True, 0, 255), gray(blob | True, 0, 1)):
        with pytest.raises(Unusable, match="marks 100%"):
            decode_mask(full)


def test_eighty_percent_is_the_limit() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:8] = True
    assert same(mask, mask)
    mask[8, 0] = True
    with pytest.raises(Unusable, match="marks 81%"):
        decode_mask(mask)


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.int8, np.uint16, np.int64, np.float16, np.float64]
)
def test_arrays_of_zero_and_one(blob: BoolArray, dtype: type) -> None:
    assert same(blob.astype(dtype), blob)


def test_soft_and_broken_float_arrays_are_refused(blob: BoolArray) -> None:
    for bad in (0.5, 2.0, -1.0, np.nan):
        values = blob.astype(np.float32)
        values[0, 0] = bad
        with pytest.raises(Unusable, match="mask > 0.5"):
            decode_mask(values)
    with pytest.raises(Unusable, match="convert it to bool"):
        decode_mask(blob.astype(np.complex64))


def test_negative_labels_are_refused(blob: BoolArray) -> None:
    with pytest.raises(Unusable, match="values -1 and 0, without 0 as background"):
        decode_mask(np.where(blob, 0, -1))


def test_negative_label_among_jpeg_like_values_is_refused(blob: BoolArray) -> None:
    values = np.where(blob, 255, 0)
    values[0, :3] = (-1, 3, 250)
    with pytest.raises(Unusable, match="5 gray values"):
        decode_mask(values)


def test_mode_that_means_nothing(blob: BoolArray) -> None:
    for mode in ("F", "CMYK"):
        with pytest.raises(Unusable, match=f"PIL mode {mode}"):
            decode_mask(gray(blob, 0, 255).convert(mode))


def test_exif_orientation_turns_the_mask(blob: BoolArray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    gray(blob, 0, 255).save(tmp_path / "m.png", exif=exif)
    assert same(tmp_path / "m.png", np.rot90(blob, -1))


@pytest.mark.parametrize("shape", [(3, 1, 8, 9), (3, 8, 9)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16])
def test_tensors_and_arrays_are_split(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    masks = torch.zeros(shape)
    masks[1, ..., 2, 3] = 1
    for source in (masks.to(dtype), masks.numpy()):
        items = list_masks(source)
        assert [item.label for item in items] == ["[0]", "[1]", "[2]"]
        decoded, _ = decode_mask(items[1].value)
        assert decoded.shape == (8, 9)
        assert np.argwhere(decoded).tolist() == [[2, 3]]


@pytest.mark.parametrize("shape", [(8, 9), (2, 3, 8, 9), (2, 8, 9, 1), (0, 1, 8, 9), (0, 8, 9)])
def test_tensors_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskError, match=r"masks: a tensor of masks must have the shape"):
        list_masks(torch.zeros(shape))


def test_other_sources_raise_mask_errors() -> None:
    for source in (None, 3, [], "nowhere", {"a": 1}, [object()]):
        with pytest.raises(MaskError, match="^masks: "):
            list_masks(source)

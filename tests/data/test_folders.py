from __future__ import annotations

from pathlib import Path

import pytest

from defectgen.data.folders import pair_folders
from defectgen.errors import ImageError, MaskError


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"")  # pairing looks at names only
    return folder


def test_pairs_equal_stems_and_mask_endings(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "b.PNG", "a.jpg", "c.tif")
    masks = fill(tmp_path / "m", "a_mask.png", "b.png", "c_mask.bmp")
    left, right = pair_folders(images, str(masks))
    assert [path.name for path in left] == ["a.jpg", "b.PNG", "c.tif"]
    assert [path.name for path in right] == ["a_mask.png", "b.png", "c_mask.bmp"]


def test_other_files_hidden_files_and_subfolders_do_not_count(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "a.png", ".b.png", "Thumbs.db", "notes.txt")
    (images / "deep.png").mkdir()
    masks = fill(tmp_path / "m", "a.png", ".DS_Store")
    left, right = pair_folders(images, masks)
    assert (len(left), len(right)) == (1, 1)


def test_image_whose_own_name_ends_in_mask(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "gas_mask.png")
    masks = fill(tmp_path / "m", "gas_mask_mask.png")
    assert pair_folders(images, masks)[1][0].name == "gas_mask_mask.png"


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "ok.png", "alone.png", "twice.png", "same.png", "same.jpg")
    masks = fill(
        tmp_path / "m", "ok.png", "twice.png", "twice_mask.png", "same.png", "orphan_mask.png"
    )
    with pytest.raises(MaskError) as caught:
        pair_folders(images, masks)
    text = str(caught.value)
    assert "alone.png: has no mask: add alone.png or alone_mask.png" in text
    assert "twice.png: has several masks (twice.png, twice_mask.png)" in text
    assert "orphan_mask.png: is a mask without an image" in text
    assert "same.png: is a mask that fits several images (same.jpg, same.png)" in text
    assert "ok.png" not in text
    assert "got 4 bad of 10" in text  # images and masks


def test_long_lists_are_cut_with_a_count(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", *(f"{i:02d}.png" for i in range(30)))
    masks = fill(tmp_path / "m", "00.png")
    with pytest.raises(MaskError, match="got 29 bad of 31") as caught:
        pair_folders(images, masks)
    assert "10.png" in str(caught.value)
    assert "11.png" not in str(caught.value)
    assert str(caught.value).endswith("... and 19 more")


def test_same_folder_twice_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "i", "a.png", "a_mask.png")
    with pytest.raises(MaskError, match="must be another folder"):
        pair_folders(folder, tmp_path / "i" / ".." / "i")


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    good, empty = fill(tmp_path / "i", "a.png"), fill(tmp_path / "m", "a.gif")
    with pytest.raises(ImageError, match="images: the folder must hold files ending in png, jpg"):
        pair_folders(empty, good)
    with pytest.raises(MaskError, match="masks: the folder must hold files ending in png, jpg"):
        pair_folders(good, empty)
    with pytest.raises(ImageError, match="which is nothing; check the path"):
        pair_folders(tmp_path / "x", good)
    with pytest.raises(ImageError, match="which is a file; pass a list"):
        pair_folders(good / "a.png", empty)

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from data_trees import mask, mvtec, photo, spot

from defectgen import DefectBatch, Folder
from defectgen.data.images import load_pairs
from defectgen.errors import DataWarning, ImageError, MaskError
from defectgen.writer import write_samples


def goods(root: Path, name: str = "good") -> None:
    for k in range(2):
        photo(root / name / f"{k}.png", k)


def names(values: list[object]) -> list[str]:
    return [Path(str(value)).name for value in values]


def test_one_type_with_a_folder_of_masks(tmp_path: Path) -> None:
    goods(tmp_path)
    photo(tmp_path / "defect" / "a.jpg", 5)
    mask(tmp_path / "masks" / "a_mask.png")
    data = Folder(tmp_path)
    assert names(data.train_good) == ["0.png", "1.png"]
    assert data.test_good == []
    assert data.defects == {
        "defect": ([tmp_path / "defect" / "a.jpg"], [tmp_path / "masks" / "a_mask.png"])
    }
    assert data.report.counts == {"train/good": 2, "train/defect": 1}


@pytest.mark.parametrize("nested", [True, False])
def test_types_by_subfolder(tmp_path: Path, nested: bool) -> None:
    goods(tmp_path, "OK")
    goods(tmp_path, "test_good")
    for index, kind in enumerate(("dent", "scratch")):
        photo(tmp_path / "ng" / kind / f"{kind}.png", 5 + index)
        mask(tmp_path / "ground_truth" / (kind if nested else ".") / f"{kind}.png")
    with pytest.warns(DataWarning, match="once in train and once in test"):
        data = Folder(tmp_path)
    assert names(data.test_good) == ["0.png", "1.png"]
    assert list(data.defects) == ["dent", "scratch"]
    assert names(data.defects["dent"].masks) == ["dent.png"]


def test_masks_beside_the_images(tmp_path: Path) -> None:
    goods(tmp_path)
    photo(tmp_path / "bad" / "a.png", 5)
    mask(tmp_path / "bad" / "a_mask.png")
    for data in (Folder(tmp_path), Folder(tmp_path, masks="bad")):
        assert names(data.defects["bad"].images) == ["a.png"]
        assert names(data.defects["bad"].masks) == ["a_mask.png"]


def test_folders_named_in_pairs(tmp_path: Path) -> None:
    """As in the README: good, scratch, scratch_masks."""
    goods(tmp_path)
    for index, kind in enumerate(("scratch", "dent")):
        photo(tmp_path / kind / "a.png", 5 + index)
        mask(tmp_path / f"{kind}_masks" / "a.png")
    assert list(Folder(tmp_path).defects) == ["dent", "scratch"]
    one = Folder(tmp_path, defects="scratch", masks="scratch_masks")
    assert list(one.defects) == ["scratch"]


def test_what_sampling_wrote(tmp_path: Path) -> None:
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    masks[:, :, 20:] = True
    images, twins = torch.rand(2, 2, 3, 32, 32)
    write_samples([DefectBatch(images, masks, twins)], tmp_path / "out", metadata={})
    data = Folder(tmp_path / "out")
    assert [path.parent.name for path in data.train_good] == ["normals"] * 2
    assert list(data.defects) == ["defect"]
    pairs = load_pairs(*data.defects["defect"], resolution=None, channels=3)
    assert torch.equal(pairs.masks.bool(), masks)
    assert torch.allclose(pairs.images / 255, images, atol=0.51 / 255)


def test_a_folder_named_by_the_user_keeps_its_name(tmp_path: Path) -> None:
    goods(tmp_path)
    photo(tmp_path / "images" / "a.png", 5)
    mask(tmp_path / "masks" / "a.png")
    assert list(Folder(tmp_path).defects) == ["defect"]
    assert list(Folder(tmp_path, defects="images").defects) == ["images"]


def test_good_images_are_no_defects(tmp_path: Path) -> None:
    goods(tmp_path, "images")
    mask(tmp_path / "masks" / "0.png")
    mask(tmp_path / "masks" / "1.png")
    with pytest.raises(ImageError, match="holds no folder of defect images: .*, images, or pass"):
        Folder(tmp_path, good="images")


def test_splits_of_images_are_no_types_of_defects(tmp_path: Path) -> None:
    goods(tmp_path)
    photo(tmp_path / "images" / "train" / "a.png", 5)
    mask(tmp_path / "labels" / "train" / "a.png")
    with pytest.raises(ImageError, match="holds no folder of defect images"):
        Folder(tmp_path)


def test_normals_are_good_only_where_nothing_else_is(tmp_path: Path) -> None:
    goods(tmp_path, "normals")
    photo(tmp_path / "defect" / "normals" / "a.png", 5)
    mask(tmp_path / "masks" / "normals" / "a.png")
    data = Folder(tmp_path)
    assert [path.parent.name for path in data.train_good] == ["normals"] * 2
    assert (list(data.defects), data.test_good) == (["normals"], [])
    goods(tmp_path, "ok")
    good = Folder(tmp_path).train_good
    assert [path.parent.name for path in good] == ["ok"] * 2


def test_images_that_are_a_pair_stay_one(tmp_path: Path) -> None:
    goods(tmp_path)
    photo(tmp_path / "images" / "a.png", 5)
    mask(tmp_path / "images_masks" / "a.png")
    assert list(Folder(tmp_path).defects) == ["images"]


def test_folders_anywhere(tmp_path: Path) -> None:
    goods(tmp_path, "a/b")
    photo(tmp_path / "c" / "x.png", 5)
    mask(tmp_path / "d" / "x.png")
    data = Folder(tmp_path, good="a/b", defects=tmp_path / "c", masks=tmp_path / "d")
    assert names(data.defects["c"].images) == ["x.png"]


def test_a_tree_like_that_of_mvtec(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    data = Folder(home, good="train/good", defects="test", masks="ground_truth")
    assert names(data.test_good) == ["000.png"]
    assert list(data.defects) == ["crack", "dent"]


def test_everything_wrong_is_listed_at_once(tmp_path: Path) -> None:
    goods(tmp_path)
    (tmp_path / "good" / "2.png").write_bytes(b"broken")
    for index, kind in enumerate(("dent", "scratch")):
        for k in range(3):
            photo(tmp_path / "defect" / kind / f"{k}.png", 5 + 10 * index + k)
    mask(tmp_path / "mask" / "dent" / "0.png", spot() * 0)
    mask(tmp_path / "mask" / "dent" / "1.png", spot((30, 30)))
    mask(tmp_path / "mask" / "dent" / "7.png")
    mask(tmp_path / "mask" / "hole" / "1.png")
    (tmp_path / "mask" / "scratch").mkdir()
    with pytest.raises(ImageError) as caught:
        Folder(tmp_path)
    text = str(caught.value)
    for line in (
        "good/2.png: cannot be read",
        "mask/dent/0.png: is empty",
        "mask/dent/1.png: is 30x30, but its image defect/dent/1.png is 40x40",
        "defect/dent/2.png: has no mask: add 2.png or 2_mask.png",
        "mask/dent/7.png: is a mask without an image",
        "mask/hole: is a folder of masks without a folder of images",
        "mask/scratch: holds no file ending in png",
    ):
        assert line in text


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        Folder(tmp_path)
    text = str(caught.value)
    assert (
        "holds no folder of good images: call it good, normal, ok, normals, or pass good=" in text
    )
    assert "holds no folder of defect images: call it defect, defects" in text
    goods(tmp_path)
    photo(tmp_path / "defect" / "a.png", 5)
    with pytest.raises(MaskError, match=r"defect/a\.png: has no mask"):
        Folder(tmp_path)
    with pytest.raises(MaskError, match="truth: is missing: check the path of the masks"):
        Folder(tmp_path, masks="truth")
    with pytest.raises(ImageError, match="fine: is missing: .* which has defect, good; check"):
        Folder(tmp_path, good="fine")
    shutil.rmtree(tmp_path / "defect")
    (tmp_path / "defect").mkdir()
    with pytest.raises(ImageError, match="defect: holds no image, and no sub-folder does"):
        Folder(tmp_path)
    with pytest.raises(ImageError, match=r"root: must name a folder; got .* which is a file"):
        Folder(tmp_path / "good" / "0.png")


def test_oblong_photos_that_lose_their_defect(tmp_path: Path) -> None:
    goods(tmp_path)
    photo(tmp_path / "defect" / "a.png", 5, (40, 90))
    mask(tmp_path / "mask" / "a.png", spot((40, 90)))
    with pytest.raises(MaskError, match="lies outside the middle of its image: pass square='pad'"):
        Folder(tmp_path, square="crop")
    data = Folder(tmp_path, square="pad")
    assert load_pairs(*data.defects["defect"], resolution=64, channels=3).masks.any()
    # Both would become squares of one side.
    mask(tmp_path / "mask" / "a.png", spot((30, 90)))
    with pytest.raises(MaskError, match="is 90x30, but its image defect/a.png is 90x40"):
        Folder(tmp_path, square="pad")

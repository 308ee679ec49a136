"""Good images and pairs for a training, from any layout or from plain folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_trees import mask, mvtec, photo, spot, visa

from defectgen import Folder, MVTecAD, VisA
from defectgen.data.images import load_images, load_pairs
from defectgen.data.layouts import _one_type, defect_pairs, good_images
from defectgen.data.visa import survey_visa
from defectgen.errors import ConfigError, DataWarning, ImageError, MaskError

BOX = "0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"


def names(values: list[object]) -> list[str]:
    return [Path(str(value)).name for value in values]


def plain(root: Path, count: int = 3) -> tuple[Path, Path]:
    """A folder of images and one of masks."""
    for k in range(count):
        photo(root / "scratch" / f"{k}.png", 5 + k)
        mask(root / "truth" / f"{k}.png")
    return root / "scratch", root / "truth"


def own(root: Path) -> Path:
    for k in range(2):
        photo(root / "good" / f"{k}.png", k)
    for index, kind in enumerate(("dent", "hole")):
        photo(root / "bad" / kind / "a.png", 10 + index)
        mask(root / "masks" / kind / "a.png")
    return root


OUTLINE = [10, 10, 20, 10, 20, 20, 10, 20]


def coco(path: Path, *records: tuple[str, list[list[int]]]) -> Path:
    """Annotations of 0.png, 1.png, ...: the category, and the segmentation, empty for a box."""
    size = {"height": 40, "width": 40}
    names = sorted({name for name, _ in records})
    content = {
        "images": [{"id": k, "file_name": f"{k}.png", **size} for k in range(len(records))],
        "annotations": [
            {"image_id": k, "category_id": names.index(name), "segmentation": outlines}
            for k, (name, outlines) in enumerate(records)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    path.write_text(json.dumps(content))
    return path


def refuse(*values: object, **more: object) -> None:
    raise AssertionError("opened what nobody asked for")


# -- good images -----------------------------------------------------------------------------------


def test_good_images_of_every_layout(tmp_path: Path) -> None:
    home = mvtec(tmp_path / "m")
    assert good_images(home) == MVTecAD(tmp_path / "m", "bottle").train_good
    assert good_images(tmp_path / "m") == good_images(home)  # the only one there
    visa(tmp_path / "v")
    found = good_images(tmp_path / "v", category="candle")
    assert names(found) == names(VisA(tmp_path / "v", "candle").train_good)
    assert [image.size() for image in found] == [(64, 64)] * 3  # padded unless asked otherwise
    cropped = good_images(tmp_path / "v", square="crop")
    assert [image.size() for image in cropped] == [(48, 48)] * 3
    assert good_images(own(tmp_path / "o")) == Folder(tmp_path / "o").train_good


def test_a_plain_folder_is_read_as_before(tmp_path: Path) -> None:
    for k in (10, 9, 1):
        photo(tmp_path / "good" / f"{k}.png", k)
    photo(tmp_path / "good" / "below" / "x.png", 99)
    before = load_images(tmp_path / "good", resolution=32, channels=3)
    now = load_images(good_images(tmp_path / "good"), resolution=32, channels=3)
    assert now.digest == before.digest
    assert now.names == before.names == ("1.png", "10.png", "9.png")


def test_good_images_do_not_need_defects(tmp_path: Path) -> None:
    photo(tmp_path / "o" / "good" / "a.png", 1)
    assert names(good_images(tmp_path / "o")) == ["a.png"]
    home = mvtec(tmp_path / "m")
    shutil.rmtree(home / "ground_truth")
    for path in (home / "test" / "crack").iterdir():
        path.write_bytes(b"broken")
    assert len(good_images(home)) == 3
    shutil.rmtree(home / "test")
    assert len(good_images(home, layout="mvtec")) == 3


def test_good_images_do_not_open_annotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path / "o")
    visa(tmp_path / "v")
    monkeypatch.setattr("defectgen.data.mask_sources._add_groups", refuse)
    monkeypatch.setattr("defectgen.data.visa._read_annotations", refuse)
    assert len(good_images(tmp_path / "o")) == 2
    assert len(good_images(tmp_path / "v" / "candle")) == 3


def test_oblong_photos_in_a_plain_folder(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    photo(tmp_path / "b.png", 2, (40, 60))
    with pytest.raises(ImageError, match=r"b.png: is 60x40, not square: .* pass square='pad'"):
        good_images(tmp_path)
    first, second = good_images(tmp_path, square="pad")
    assert first == tmp_path / "a.png"
    assert second.size() == (60, 60)


def test_bad_files_are_listed_or_dropped(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    for name in ("b.png", "c.png"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"2 bad of 3(.|\n)*b.png(.|\n)*c.png"):
        good_images(tmp_path)
    with pytest.warns(DataWarning, match="2 errors, whose files were left out") as caught:
        assert names(good_images(tmp_path, drop_bad=True)) == ["a.png"]
    assert caught[0].filename == __file__
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match="2 bad of 2"):
        good_images(tmp_path, drop_bad=True)


def test_what_fit_says_is_said_once(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    photo(tmp_path / "b.png", 1)
    found = good_images(tmp_path)  # a warning would be an error here
    with pytest.warns(DataWarning, match="repeat an earlier image"):
        load_images(found, resolution=32, channels=3)


def test_pictures_of_kinds_that_are_not_read_are_told(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    (tmp_path / "b.heic").write_bytes(b"x")
    with pytest.warns(DataWarning, match="b.heic: is of a kind that is not read"):
        good_images(tmp_path)


def test_pictures_beside_a_data_set_are_told(tmp_path: Path) -> None:
    photo(own(tmp_path) / "sheet.png", 77)
    with pytest.warns(DataWarning, match="holds pictures itself, which are taken, and a data set"):
        assert names(good_images(tmp_path)) == ["sheet.png"]
    assert len(good_images(tmp_path, layout="folder")) == 2
    assert names(defect_pairs(tmp_path, defect="dent").images) == ["a.png"]


def test_a_category_has_to_be_named_where_there_are_several(tmp_path: Path) -> None:
    mvtec(tmp_path, "bottle")
    mvtec(tmp_path, "cable")
    for function in (good_images, defect_pairs):
        with pytest.raises(ConfigError, match="category: must name one of several .* choose bot"):
            function(tmp_path)
        with pytest.raises(ImageError, match="category: .* got 'x', but .* holds bottle, cable"):
            function(tmp_path, category="x")
    assert len(good_images(tmp_path, category="cable")) == 3


def test_arguments_out_of_their_range(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    for function in (good_images, defect_pairs):
        with pytest.raises(ConfigError, match="^layout: must be one of"):
            function(tmp_path, layout="coco")
        with pytest.raises(ConfigError, match="^square: must be one of"):
            function(tmp_path, square="stretch")
        with pytest.raises(ImageError, match="^path: must name a folder; got .* which is a file"):
            function(tmp_path / "a.png")


def test_no_good_images_at_all(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no folder of good images: call it good"):
        good_images(tmp_path)


# -- pairs of a data set ---------------------------------------------------------------------------


def test_pairs_of_every_layout(tmp_path: Path) -> None:
    home = mvtec(tmp_path / "m")
    expected = MVTecAD(tmp_path / "m", "bottle").defects
    assert defect_pairs(home, defect="dent") == expected["dent"]
    visa(tmp_path / "v")
    found = defect_pairs(tmp_path / "v", defect="chunk of wax missing")
    assert names(found.images) == ["000.JPG", "001.JPG"]
    assert load_pairs(*found, resolution=32, channels=3).masks.any()
    assert (
        defect_pairs(own(tmp_path / "o"), defect="hole") == Folder(tmp_path / "o").defects["hole"]
    )


def test_the_only_type_need_not_be_named(tmp_path: Path) -> None:
    home = mvtec(tmp_path, kinds=("crack",))
    assert len(defect_pairs(home).images) == 2
    rearranged = mvtec(tmp_path, "candle", kinds=("bad",))
    mask(rearranged / "ground_truth" / "bad" / "000_mask.png", spot() // 51)
    assert len(defect_pairs(rearranged).images) == 2


def test_a_type_has_to_be_named_where_there_are_several(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    with pytest.raises(ConfigError, match="^defect: must name one of several .* choose crack, den"):
        defect_pairs(home)
    with pytest.raises(ConfigError, match="must be a type of defect in .* got 'x'; choose crack"):
        defect_pairs(home, defect="x")
    # Also where all of one type is bad.
    shutil.rmtree(home / "ground_truth" / "crack")
    with pytest.raises(ConfigError, match="choose crack, dent"):
        defect_pairs(home)


def test_other_types_do_not_hinder(tmp_path: Path) -> None:
    home = mvtec(tmp_path / "m")
    shutil.rmtree(home / "train")
    shutil.rmtree(home / "ground_truth" / "crack")
    mask(home / "ground_truth" / "hole" / "000.png")
    (home / "test" / "good" / "000.png").write_bytes(b"broken")
    assert len(defect_pairs(home, defect="dent").images) == 2
    with pytest.raises(MaskError, match=r"^\S+: all .* got 1 bad of 1; .*\n.*/crack: is missing"):
        defect_pairs(home, defect="crack")
    own(tmp_path / "o")
    (tmp_path / "o" / "masks" / "hole" / "a.png").rename(
        tmp_path / "o" / "masks" / "hole" / "b.png"
    )
    assert len(defect_pairs(tmp_path / "o", defect="dent").images) == 1
    with pytest.raises(MaskError, match="bad/hole/a.png: has no mask"):
        defect_pairs(tmp_path / "o", defect="hole")


def test_masks_that_are_bad_or_left_over_are_of_their_type(tmp_path: Path) -> None:
    visa(tmp_path / "v")
    masks = tmp_path / "v" / "candle" / "Data" / "Masks" / "Anomaly"
    (masks / "003.png").unlink()
    assert len(defect_pairs(tmp_path / "v", defect="chunk of wax missing").images) == 2
    for k, kind in enumerate(("scratch", "dent")):
        photo(tmp_path / "p" / kind / "a.png", k)
        mask(tmp_path / "p" / f"{kind}_masks" / "a.png")
    mask(tmp_path / "p" / "scratch_masks" / "b.png")
    assert len(defect_pairs(tmp_path / "p", defect="dent").images) == 1
    with pytest.raises(MaskError, match="b.png: is a mask without an image"):
        defect_pairs(tmp_path / "p", defect="scratch")
    mask(own(tmp_path / "o") / "masks" / "gone" / "a.png")
    assert len(defect_pairs(tmp_path / "o", defect="dent").images) == 1


def test_broken_annotations_are_of_the_type_of_their_folder(tmp_path: Path) -> None:
    for k, kind in enumerate(("dent", "hole")):
        photo(tmp_path / "bad" / kind / f"{k}.png", 10 + k)
    coco(tmp_path / "annotations.json", ("hole", []), ("hole", [OUTLINE]))
    assert names(defect_pairs(tmp_path, defect="hole").images) == ["1.png"]
    with pytest.raises(MaskError, match="0.png: annotation 0 of annotations.json has a box"):
        defect_pairs(tmp_path, defect="dent")


def test_goods_of_the_test_hinder_no_defects(tmp_path: Path) -> None:
    own(tmp_path)
    (tmp_path / "test_good").mkdir()
    assert len(defect_pairs(tmp_path, defect="dent").images) == 1
    assert len(good_images(tmp_path)) == 2


def test_defects_of_the_training_part_come_before_those_of_the_test(tmp_path: Path) -> None:
    visa(tmp_path)
    survey = survey_visa(tmp_path / "candle", want="defects")
    first, *others = [entry for entry in survey.entries if entry.kind == "chunk of wax missing"]
    survey.entries = [replace(first, part="train"), *others]
    assert len(others) == 1
    assert [one.image for one in _one_type(survey, "chunk of wax missing").entries] == [first.image]


def test_a_link_to_the_images_is_no_folder_of_masks(tmp_path: Path) -> None:
    photo(tmp_path / "a" / "0.png", 1)
    mask(tmp_path / "a" / "0_mask.png")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert names(defect_pairs(tmp_path / "a", tmp_path / "b").masks) == ["0_mask.png"]


def test_a_picture_beside_what_sample_wrote(tmp_path: Path) -> None:
    for k in range(2):
        photo(tmp_path / "images" / f"{k}.png", k)
        mask(tmp_path / "masks" / f"{k}.png")
        photo(tmp_path / "normals" / f"{k}.png", 10 + k)
    photo(tmp_path / "sheet.png", 77)
    assert names(defect_pairs(tmp_path).images) == ["0.png", "1.png"]
    with pytest.warns(DataWarning, match="holds pictures itself, which are taken, and a data set"):
        assert names(good_images(tmp_path)) == ["sheet.png"]


def test_only_what_is_wanted_is_decoded(tmp_path: Path) -> None:
    visa(tmp_path)
    for path in (tmp_path / "candle" / "Data" / "Images" / "Normal").iterdir():
        path.write_bytes(b"broken")
    (tmp_path / "candle" / "Data" / "Images" / "Anomaly" / "003.JPG").write_bytes(b"broken")
    assert len(defect_pairs(tmp_path, defect="foreign particals on candle").images) == 1
    with pytest.raises(ImageError, match="1 bad of 1"):
        defect_pairs(tmp_path, defect="combined")


def test_bad_pairs_are_dropped_if_any_is_left(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    mask(home / "ground_truth" / "dent" / "001_mask.png", spot() * 0)
    with pytest.raises(MaskError, match=r"dent/001_mask.png: is empty"):
        defect_pairs(home, defect="dent")
    with pytest.warns(DataWarning, match="1 errors, whose files were left out"):
        assert names(defect_pairs(home, defect="dent", drop_bad=True).images) == ["000.png"]
    mask(home / "ground_truth" / "dent" / "000_mask.png", spot() * 0)
    with pytest.raises(MaskError, match="2 bad of 2"):
        defect_pairs(home, defect="dent", drop_bad=True)


def test_no_defects_at_all(tmp_path: Path) -> None:
    photo(tmp_path / "good" / "a.png", 1)
    for defect in (None, "dent"):
        with pytest.raises(ImageError, match="holds no folder of defect images"):
            defect_pairs(tmp_path, defect=defect)


def test_the_split_of_visa_can_be_chosen(tmp_path: Path) -> None:
    home = visa(tmp_path / "v")
    (tmp_path / "v" / "split_csv" / "1cls.csv").unlink()
    few = defect_pairs(home, defect="chunk of wax missing", split="2cls_fewshot")
    assert names(few.images) == ["000.JPG"]  # the other is for the test
    assert names(good_images(home, split="2cls_fewshot")) == ["0000.JPG", "0001.JPG", "0002.JPG"]
    with pytest.warns(DataWarning, match="1cls.csv: is missing"):
        assert len(good_images(home)) == 4  # as without the table of "1cls"
    with pytest.raises(ConfigError, match="split: must be one of None, '1cls', '2cls_fewshot'"):
        good_images(home, split="3cls")


def test_a_split_of_what_has_none_is_refused(tmp_path: Path) -> None:
    images, masks = plain(tmp_path / "plain")
    mvtec(tmp_path / "m")
    mvtec(tmp_path / "r", "candle", kinds=("bad",))  # the owners' other tree, split already
    visa(tmp_path / "v")
    photo(tmp_path / "v" / "candle" / "beside.png", 3)
    said = "split: belongs to VisA as its owners distribute it; got '1cls' for "
    for path in (images, tmp_path / "m", own(tmp_path / "o"), tmp_path / "v" / "candle"):
        with pytest.raises(ConfigError, match=said):
            good_images(path, split="1cls")
    with pytest.raises(ConfigError, match=said):
        good_images(tmp_path / "r", layout="visa", split="1cls")
    mask(images / "0_mask.png")
    with pytest.raises(ConfigError, match=said):
        defect_pairs(images, split="1cls")
    with pytest.raises(ConfigError, match="split: belongs to a data set; got '1cls' with masks"):
        defect_pairs(images, masks, split="1cls")


# -- pairs of two folders --------------------------------------------------------------------------


def test_two_folders_are_paired_as_before(tmp_path: Path) -> None:
    images, masks = plain(tmp_path)
    photo(images / "raw" / "0.png", 50)
    mask(masks / "old" / "0.png")
    (masks / "0.txt").write_text("a note")
    before = load_pairs(images, masks, resolution=32, channels=3)
    now = load_pairs(*defect_pairs(images, masks), resolution=32, channels=3)
    assert now.digest == before.digest


def test_case_counts_where_it_alone_tells_images_apart(tmp_path: Path) -> None:
    for k, name in enumerate(("A.png", "a.jpg")):
        photo(tmp_path / "i" / name, k)
    mask(tmp_path / "m" / "A_mask.png")
    mask(tmp_path / "m" / "a.png", spot(at=20))
    before = load_pairs(tmp_path / "i", tmp_path / "m", resolution=32, channels=3)
    now = load_pairs(*defect_pairs(tmp_path / "i", tmp_path / "m"), resolution=32, channels=3)
    assert now.digest == before.digest


def test_masks_in_other_spellings(tmp_path: Path) -> None:
    images, _ = plain(tmp_path, 2)
    mask(tmp_path / "m" / "0_Label.PNG")
    mask(tmp_path / "m" / "GT-1.png")
    assert names(defect_pairs(images, tmp_path / "m").masks) == ["0_Label.PNG", "GT-1.png"]


def test_oblong_pairs(tmp_path: Path) -> None:
    photo(tmp_path / "i" / "a.png", 1, (40, 60))
    mask(tmp_path / "m" / "a.png", spot((40, 60)))
    with pytest.raises(ImageError, match=r"i/a.png: is 60x40, not square"):
        defect_pairs(tmp_path / "i", tmp_path / "m")
    found = defect_pairs(tmp_path / "i", tmp_path / "m", square="pad")
    assert load_pairs(*found, resolution=32, channels=3).masks.any()


def test_coco_file_of_a_folder(tmp_path: Path) -> None:
    images, _ = plain(tmp_path, 2)
    file = coco(tmp_path / "c.json", ("dent", [OUTLINE]), ("hole", [OUTLINE]))
    with pytest.raises(ConfigError, match="several types .* choose dent, hole"):
        defect_pairs(images, file)
    found = defect_pairs(images, file, defect="hole")
    assert names(found.images) == ["1.png"]
    assert np.array_equal(np.asarray(found.masks[0].open()), spot())


def test_boxes_of_one_category_hinder_no_other(tmp_path: Path) -> None:
    images, _ = plain(tmp_path, 2)
    file = coco(tmp_path / "c.json", ("dent", []), ("hole", [OUTLINE]))
    assert names(defect_pairs(images, file, defect="hole").images) == ["1.png"]
    with pytest.raises(ConfigError, match="choose dent, hole"):
        defect_pairs(images, file)
    with pytest.raises(MaskError, match="0.png: annotation 0 of c.json has a box but no outline"):
        defect_pairs(images, file, defect="dent")


@pytest.mark.parametrize("beside", [True, False])
def test_labels_of_a_folder(tmp_path: Path, beside: bool) -> None:
    images, _ = plain(tmp_path, 2)
    labels = images if beside else tmp_path / "labels"
    labels.mkdir(exist_ok=True)
    for k in range(2):
        (labels / f"{k}.txt").write_text(f"0 {BOX}")
    assert len(defect_pairs(images, labels).images) == 2
    assert len(defect_pairs(images, None if beside else labels).images) == 2


def test_masks_beside_or_within_a_folder_of_images(tmp_path: Path) -> None:
    for k in range(2):
        photo(tmp_path / "a" / f"{k}.png", k)
        mask(tmp_path / "a" / f"{k}_mask.png")
        photo(tmp_path / "b" / f"{k}.png", k)
        mask(tmp_path / "b" / "masks" / f"{k}.png")
    for given in (None, tmp_path / "a"):
        assert names(defect_pairs(tmp_path / "a", given).masks) == ["0_mask.png", "1_mask.png"]
    assert names(defect_pairs(tmp_path / "b").masks) == ["0.png", "1.png"]


def test_sub_folders_of_images_are_types(tmp_path: Path) -> None:
    own(tmp_path)
    found = defect_pairs(tmp_path / "bad", tmp_path / "masks", defect="dent")
    assert found == Folder(tmp_path).defects["dent"]
    with pytest.raises(ConfigError, match="several types .* choose dent, hole"):
        defect_pairs(tmp_path / "bad", tmp_path / "masks")


def test_pairs_that_are_refused(tmp_path: Path) -> None:
    images, masks = plain(tmp_path)
    with pytest.raises(MaskError, match="^masks: must be given where none lie beside the images"):
        defect_pairs(images)
    for wrong, what in (("nowhere", "nothing"), ("truth/0.png", "another file")):
        with pytest.raises(MaskError, match=f"^masks: must name a folder of .* which is {what}"):
            defect_pairs(images, tmp_path / wrong)
    with pytest.raises(ConfigError, match="layout: belongs to a data set; got 'mvtec' with masks"):
        defect_pairs(images, masks, layout="mvtec")
    with pytest.raises(ConfigError, match="category: belongs to a data set; got 'scratch' with"):
        defect_pairs(tmp_path, masks, category="scratch")
    with pytest.raises(ConfigError, match="must be a type of defect in .* choose scratch"):
        defect_pairs(images, masks, defect="dent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaskError, match="empty: holds no file ending in png"):
        defect_pairs(images, tmp_path / "empty")
    (masks / "0.png").rename(masks / "7.png")
    with pytest.raises(MaskError) as caught:
        defect_pairs(images, masks)
    assert "scratch/0.png: has no mask: add 0.png or 0_mask.png" in str(caught.value)
    assert "truth/7.png: is a mask without an image" in str(caught.value)
    with pytest.warns(DataWarning, match="2 errors"):
        assert names(defect_pairs(images, masks, drop_bad=True).images) == ["1.png", "2.png"]

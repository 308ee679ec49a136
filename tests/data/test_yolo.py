from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from data_trees import photo

from defectgen import Folder
from defectgen.data.images import load_pairs
from defectgen.data.layouts import defect_pairs
from defectgen.data.yolo import yaml_names
from defectgen.errors import DataWarning, ImageError, MaskError

BOX = "0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"


def tree(root: Path, labels: dict[str, str]) -> Path:
    for k in range(2):
        photo(root / "good" / f"{k}.png", k)
    (root / "labels").mkdir(parents=True)
    for k, (stem, text) in enumerate(labels.items()):
        photo(root / "defect" / f"{stem}.png", 5 + k)
        (root / "labels" / f"{stem}.txt").write_text(text)
    return root


def test_polygons_become_masks_and_classes_types(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {"a": f"0 {BOX}\n", "b": f"1 {BOX}\n\n1 0 0 0.1 0 0.1 1\n", "c": f"0 {BOX}\n1 {BOX}"},
    )
    (tmp_path / "labels" / "classes.txt").write_text("scratch\ndent\n")
    data = Folder(tmp_path)
    assert list(data.defects) == ["combined", "dent", "scratch"]
    box = np.zeros((40, 40), bool)
    box[10:20, 10:20] = True
    assert np.array_equal(np.asarray(data.defects["scratch"].masks[0].open()) > 0, box)
    assert load_pairs(*data.defects["dent"], resolution=32, channels=3).masks.any()


def test_accents_may_be_written_apart(tmp_path: Path) -> None:
    tree(tmp_path, {"Öl": f"0 {BOX}"})
    (tmp_path / "labels" / "Öl.txt").rename(
        tmp_path / "labels" / unicodedata.normalize("NFD", "Öl.txt")
    )
    assert list(Folder(tmp_path).defects) == ["class_0"]


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    tree(tmp_path, {"a": f"0 {BOX}", "b": f"3 {BOX}"})
    assert list(Folder(tmp_path).defects) == ["class_0", "class_3"]
    (tmp_path / "data.yaml").write_text("path: x\nnames: [dent]\n")
    with pytest.warns(DataWarning, match="data.yaml: has no name for class 3, here called class_3"):
        assert list(Folder(tmp_path).defects) == ["class_3", "dent"]


def test_ends_of_lines_may_be_those_of_windows(tmp_path: Path) -> None:
    tree(tmp_path, {"a": f"0 {BOX}\r\n1 {BOX}\r\n", "b": f"1 {BOX}"})
    (tmp_path / "data.yaml").write_bytes(b"names:\r\n  0: dent\r\n\r\n  1: hole\r\n")
    assert list(Folder(tmp_path).defects) == ["combined", "hole"]


@pytest.mark.parametrize("text", ["", "dent\n\n"])
def test_an_index_without_a_name_is_told_once(tmp_path: Path, text: str) -> None:
    tree(tmp_path, {"a": f"1 {BOX}\n1 {BOX}", "b": f"1 {BOX}"})
    for k, kind in enumerate(("x", "y")):
        photo(tmp_path / "defect" / kind / "1.png", 10 + k)
        (tmp_path / "labels" / kind).mkdir()
        (tmp_path / "labels" / kind / "1.txt").write_text(f"1 {BOX}")
    (tmp_path / "labels" / "classes.txt").write_text(text)
    report = Folder.check(tmp_path)
    assert [(p.file, p.severity, p.about) for p in report.problems] == [
        ("labels/classes.txt", "warning", "mask")
    ]
    assert report.usable == 6


def test_names_that_cannot_be_read_are_one_problem(tmp_path: Path) -> None:
    tree(tmp_path, {"a": f"1 {BOX}"})
    (tmp_path / "labels" / "classes.txt").write_bytes(b"\xff\xfe")
    (problem,) = Folder.check(tmp_path).problems
    assert problem.reason.startswith("is no UTF-8 text")


def test_subfolders_tell_the_type(tmp_path: Path) -> None:
    tree(tmp_path, {})
    for k, kind in enumerate(("x", "y")):
        photo(tmp_path / "defect" / kind / "1.png", 10 + k)
        (tmp_path / "labels" / kind).mkdir()
        (tmp_path / "labels" / kind / "1.txt").write_text(f"0 {BOX}")
    assert list(Folder(tmp_path).defects) == ["x", "y"]


def test_everything_wrong_is_listed_at_once(tmp_path: Path) -> None:
    labels = {
        "box": "0 0.5 0.5 0.1 0.1",
        "empty": " \n",
        "pixels": f"0 {BOX}\n0 100 100 200 100 200 200",
        "short": "0 0.1 0.1 0.2",
        "word": "0 0.1 0.1 0.2 0.2 0.3 x",
        "name": f"dent {BOX}",
        "nan": "0 0.1 0.1 0.2 0.2 0.3 nan",
        "thin": "0 0.1 0.1 0.1 0.1 0.1 0.1",
    }
    tree(tmp_path, labels)
    photo(tmp_path / "defect" / "alone.png", 50)
    (tmp_path / "labels" / "orphan.txt").write_text(f"0 {BOX}")
    with pytest.raises(MaskError) as caught:
        Folder(tmp_path)
    text = str(caught.value)
    for line in (
        "labels/box.txt: line 1 is a box: export segments, as a box is no mask",
        "labels/empty.txt: is empty",
        "labels/pixels.txt: line 2 has the coordinate 100.0: up to 1.5 are read",
        "labels/short.txt: line 1 has an outline of 3 numbers",
        "labels/word.txt: line 1 holds something else than numbers",
        "labels/name.txt: line 1 begins with 'dent'",
        "labels/nan.txt: line 1 has the coordinate nan",
        "labels/thin.txt (thin.png): is empty",
        "defect/alone.png: has no labels: add alone.txt",
        "labels/orphan.txt: has labels of no image",
    ):
        assert line in text


@pytest.mark.parametrize(
    "text",
    [
        "names: [a, 'b']",
        'train: x\nnames: ["a", b]  # two\nnc: 2\n',
        "names:\n  0: a\n  1: b\nnc: 2",
        "names:\n- a\n- 'b'\nnc: 2",
        "names:\n  - a\n\n  - b\n",
        "names: {0: a, 1: b}",
    ],
)
def test_names_of_classes(text: str) -> None:
    assert yaml_names(text) == ["a", "b"]


@pytest.mark.parametrize("text", ["", "nc: 2", "names:", "names: []", "\x00", "names: *x\n"])
def test_no_names(text: str) -> None:
    assert yaml_names(text) == []


def test_gaps_between_names_are_numbered(tmp_path: Path) -> None:
    assert yaml_names("names: {2: c}") == ["", "", "c"]
    tree(tmp_path, {"a": f"1 {BOX}", "b": f"2 {BOX}"})
    (tmp_path / "data.yaml").write_text("names: {2: c}")
    report = Folder.check(tmp_path)
    assert report.counts == {"train/good": 2, "train/c": 1, "train/class_1": 1}
    assert [problem.reason for problem in report.problems] == [
        "has no name for class 1, here called class_1: add it"
    ]


def test_one_file_is_never_that_of_two_images(tmp_path: Path) -> None:
    tree(tmp_path, {})
    for k, kind in enumerate("AB"):
        photo(tmp_path / "defect" / kind / "01.png", 10 + k)
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "01.txt").write_text(f"0 {BOX}")
    for kind in "AB":
        with pytest.raises(ImageError, match="01.png: shares its stem with others"):
            defect_pairs(tmp_path, defect=kind)


def test_a_broken_file_of_one_type_hinders_no_other(tmp_path: Path) -> None:
    tree(tmp_path, {"a": f"0 {BOX}", "b": "1 0.1 0.1 0.2 0.2"})
    (tmp_path / "labels" / "classes.txt").write_text("dent\nhole")
    assert len(defect_pairs(tmp_path, defect="dent").images) == 1
    with pytest.raises(MaskError, match="b.txt: line 1 is a box"):
        defect_pairs(tmp_path, defect="hole")

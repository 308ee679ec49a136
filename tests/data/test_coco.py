from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_trees import photo

from defectgen import Folder
from defectgen.data.images import load_pairs
from defectgen.errors import DataWarning, ImageError, MaskError

BOX = [10, 10, 20, 10, 20, 20, 10, 20]
CATEGORIES = [{"id": 1, "name": "scratch"}, {"id": 2, "name": "dent"}]


def annotation(image: object, segmentation: object, category: object = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation}


def tree(root: Path, change: Callable[[dict[str, Any]], object] | None = None) -> dict[str, Any]:
    """Four defect images: a polygon, two polygons, runs, compressed runs of two categories."""
    for k in range(2):
        photo(root / "good" / f"{k}.png", k)
    for k, name in enumerate("abcd"):
        photo(root / "defect" / f"{name}.png", 5 + k)
    sizes = {"height": 40, "width": 40}
    runs = {"counts": [0, 40, 1560], "size": [40, 40]}
    content = {
        "images": [{"id": k, "file_name": f"{name}.png", **sizes} for k, name in enumerate("abcd")],
        "annotations": [
            annotation(0, [BOX]),
            annotation(1, [BOX, [30, 30, 34, 30, 34, 34, 30, 34]], 2),
            annotation(2, runs),
            # As pycocotools writes the left column of 40 x 40 pixels: 0, 40, 1560.
            annotation(3, {"counts": "0X1h`1", "size": [40, 40]}, 1),
            annotation(3, [BOX], 2),
        ],
        "categories": CATEGORIES,
    }
    if change is not None:
        change(content)
    (root / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return content


def test_polygons_and_runs_become_masks(tmp_path: Path) -> None:
    tree(tmp_path)
    data = Folder(tmp_path)
    assert {kind: len(found.images) for kind, found in data.defects.items()} == {
        "combined": 1,
        "dent": 1,
        "scratch": 2,
    }
    # 40 px are kept: the smallest resolution is 32.
    scratch = [np.asarray(mask.open()) > 0 for mask in data.defects["scratch"].masks]
    box = np.zeros((40, 40), bool)
    box[10:20, 10:20] = True
    column = np.zeros((40, 40), bool)
    column[:, 0] = True
    assert np.array_equal(scratch[0], box)
    assert np.array_equal(scratch[1], column)
    assert (np.asarray(data.defects["dent"].masks[0].open()) > 0).sum() == 116
    both = np.asarray(data.defects["combined"].masks[0].open()) > 0
    assert np.array_equal(both, box | column)
    assert load_pairs(*data.defects["scratch"], resolution=32, channels=3).masks.any()


def test_subfolders_tell_the_type_before_categories(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "defect" / "hole").mkdir()
    (tmp_path / "defect" / "a.png").rename(tmp_path / "defect" / "hole" / "a.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "instances.json")
    data = Folder(tmp_path)
    assert [path.name for path in data.defects["hole"].images] == ["a.png"]
    assert len(data.defects["scratch"].images) == 1


def test_good_images_in_the_same_file_do_no_harm(tmp_path: Path) -> None:
    tree(
        tmp_path,
        lambda c: c["images"].append(
            {"id": 9, "file_name": "good/0.png", "height": 40, "width": 40}
        ),
    )
    assert Folder(tmp_path).report.problems == ()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_written_apart(tmp_path: Path, form: str) -> None:
    tree(tmp_path, lambda c: c["images"][0].update(file_name="Öl.png"))
    named = unicodedata.normalize(form, "Öl.png")
    (tmp_path / "defect" / "a.png").rename(tmp_path / "defect" / named)
    assert Folder(tmp_path).report.problems == ()
    (tmp_path / "defect" / "x").mkdir()
    (tmp_path / "defect" / named).rename(tmp_path / "defect" / "x" / named)
    assert len(Folder(tmp_path).defects["x"].images) == 1  # found by its last part


def test_two_spellings_of_one_name_are_two_photos(tmp_path: Path) -> None:
    one, other = (unicodedata.normalize(form, "Öl.png") for form in ("NFC", "NFD"))
    tree(tmp_path, lambda c: c["images"][0].update(file_name=other))
    (tmp_path / "defect" / "a.png").rename(tmp_path / "defect" / other)
    photo(tmp_path / "defect" / one, 90)
    with pytest.warns(DataWarning):
        data = Folder(tmp_path, drop_bad=True)
    assert other in [path.name for path in data.defects["scratch"].images]
    assert {problem.file for problem in data.report.problems} == {f"defect/{one}"}


def test_everything_wrong_is_listed_at_once(tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["annotations"] = [
            annotation(0, []),
            annotation(1, [[1, 2, 3]]),
            annotation(2, {"counts": [1, 2], "size": [40, 40]}),
            annotation(9, [BOX]),
        ]
        content["images"][3] |= {"height": None}
        outside = {"id": 9, "file_name": "../good/0.png\x1b[2J", "height": 40, "width": 40}
        content["images"].append(outside)

    tree(tmp_path, spoil)
    photo(tmp_path / "defect" / "e.png", 80)
    with pytest.raises(ImageError) as caught:
        Folder(tmp_path)
    text = str(caught.value)
    for line in (
        "defect/a.png: annotation 0 of annotations.json has a box but no outline",
        "defect/b.png: annotation 1 of annotations.json has an outline of 3 numbers",
        "annotations.json (defect/c.png): has run lengths over 3 pixels, but 40x40 are 1600",
        "defect/d.png: has no height and width in annotations.json",
        "../good/0.png [2J: is annotated in annotations.json and is none of the defect images",
        "defect/e.png: is not named in annotations.json",
    ):
        assert line in text
    assert "\x1b" not in text


@pytest.mark.parametrize("name", ["defect/a.png", "x\\a.png", "/etc/a.png", "../../a.png"])
def test_only_the_last_part_of_a_foreign_path_counts(tmp_path: Path, name: str) -> None:
    """Names are looked up among the images that are there; none is ever opened as a path."""
    tree(tmp_path, lambda c: c["images"][0].update(file_name=name))
    data = Folder(tmp_path)
    assert tmp_path / "defect" / "a.png" in data.defects["scratch"].images


def test_names_that_fit_several_images_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, lambda c: c["images"][0].update(file_name="x/a.png"))
    photo(tmp_path / "defect" / "hole" / "a.png", 60)
    with pytest.raises(ImageError, match=r"x/a\.png: is annotated .* or several"):
        Folder(tmp_path)


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    tree(tmp_path, lambda c: c["images"][0].update(height=50))
    with pytest.raises(MaskError, match=r"defect/a\.png\): is 40x50, but its image .* is 40x40"):
        Folder(tmp_path)


@pytest.mark.parametrize(
    ("segmentation", "match"),
    [
        ({"counts": [0, 1600], "size": [80, 20]}, r"has run lengths for \[80, 20\], but its image"),
        ({"counts": [0.5, 1599.5], "size": [40, 40]}, "no list of whole numbers"),
        ({"counts": [-1, 1601], "size": [40, 40]}, "no list of whole numbers"),
        ({"counts": "\u1234", "size": [40, 40]}, "cannot be read: export them as polygons"),
        ({"counts": None, "size": [40, 40]}, "no list of whole numbers"),
        (BOX, "no list of outlines"),
        (None, "has a box but no outline"),
        ([[10, 10, 20, 10, 20, 1e9]], "the coordinate 1000000000"),
        ([[10, 10, 20, 10, 20, float("nan")]], "the coordinate nan"),
        ([[10.1, 10.1, 10.2, 10.1, 10.2, 10.2]], "is empty"),
    ],
)
def test_bad_segmentations(tmp_path: Path, segmentation: object, match: str) -> None:
    tree(tmp_path, lambda c: c["annotations"][0].update(segmentation=segmentation))
    with pytest.raises(MaskError, match=match):
        Folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "has no list 'images' of records"),
        ('{"images": [], "annotations": {}}', "has no list 'annotations' of records"),
        ('{"images": [3], "annotations": []}', "has no list 'images' of records"),
        ('{"images": [{"id": []}], "annotations": []}', "image 0 has no id or no file_name"),
    ],
)
def test_files_that_are_no_coco(tmp_path: Path, content: str, match: str) -> None:
    tree(tmp_path)
    (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(MaskError, match=f"annotations.json: {match}"):
        Folder(tmp_path)


def test_odd_identities_and_categories(tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": [1], "name": "x"}, 3, {"id": 1, "name": " a\nb "}]
        content["annotations"].append(annotation([3], [BOX], {}))
        content["annotations"][1]["category_id"] = [2]

    tree(tmp_path, spoil)
    data = Folder(tmp_path)
    assert set(data.defects) == {"a b", "defect", "combined"}


def test_a_record_twice_is_named(tmp_path: Path) -> None:
    tree(tmp_path, lambda c: c["images"].append(dict(c["images"][0], id=77)))
    with pytest.raises(MaskError, match=r"defect/a\.png: is named twice in annotations\.json"):
        Folder(tmp_path)

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_trees import mask, photo, spot

from defectgen import Folder
from defectgen.data.images import load_pairs
from defectgen.data.layouts import defect_pairs, good_images
from defectgen.data.shapes import Circle, fill
from defectgen.errors import ImageError, MaskError

BOX = [[10, 10], [20, 10], [20, 20], [10, 20]]


def shape(points: object, form: object = "polygon", label: object = "scratch") -> dict[str, Any]:
    more = {"group_id": None, "flags": {}, "description": ""}
    return {"label": label, "points": points, "shape_type": form, **more}


def content(*shapes: object, size: object = 40) -> dict[str, Any]:
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "../../elsewhere/secret.png",
        "imageData": None,
        "imageHeight": size,
        "imageWidth": 40,
    }


def write(path: Path, written: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written if isinstance(written, str) else json.dumps(written))
    return path


def tree(root: Path, files: dict[str, object], folder: str = "defect") -> Path:
    for k in range(2):
        photo(root / "good" / f"{k}.png", k)
    for k, (stem, written) in enumerate(files.items()):
        photo(root / "defect" / f"{stem}.png", 5 + k)
        write(root / folder / f"{stem}.json", written)
    return root


def test_accents_may_be_written_apart(tmp_path: Path) -> None:
    tree(tmp_path, {"Öl": content(shape(BOX))})
    apart = unicodedata.normalize("NFD", "Öl.json")
    (tmp_path / "defect" / "Öl.json").rename(tmp_path / "defect" / apart)
    assert len(defect_pairs(tmp_path / "defect").images) == 1


@pytest.mark.parametrize("folder", ["defect", "masks", "defect/labels"])
def test_shapes_become_masks_and_labels_types(tmp_path: Path, folder: str) -> None:
    tree(
        tmp_path,
        {
            "a": content(shape(BOX)),
            "b": content(shape([[20, 20], [10, 10]], "rectangle")),
            "c": content(shape([[15, 15], [15, 19]], "circle", "hole")),
            "d": content(shape(BOX), shape([[30, 30], [34, 34]], "rectangle", "hole")),
        },
        folder,
    )
    data = Folder(tmp_path)
    assert {kind: len(found.images) for kind, found in data.defects.items()} == {
        "combined": 1,
        "hole": 1,
        "scratch": 2,
    }
    for drawn in data.defects["scratch"].masks:
        assert np.array_equal(np.asarray(drawn.open()), spot())
    rows, columns = np.mgrid[:40, :40] + 0.5
    disk = np.hypot(rows - 15, columns - 15) < 4
    assert np.array_equal(np.asarray(data.defects["hole"].masks[0].open()) > 0, disk)
    assert (np.asarray(data.defects["combined"].masks[0].open()) > 0).sum() == 116
    assert load_pairs(*data.defects["combined"], resolution=32, channels=3).masks.any()


def test_a_circle_is_round_at_any_size_and_takes_no_memory() -> None:
    rows, columns = np.mgrid[:400, :500] + 0.5
    center = 250.2, 199.9
    distance = np.hypot(columns - center[0], rows - center[1])
    for radius in (0.0, 0.4, 3.0, 190.0, 260.0, 1e6):
        drawn = np.zeros((400, 500), np.bool_)
        fill(drawn, Circle(center, radius))
        assert np.array_equal(drawn, distance < radius)


def test_a_file_that_claims_to_be_large_is_not_drawn_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, {"a": content(shape(BOX)), "b": content(shape(BOX), size=8000)})
    drawn: list[tuple[int, ...]] = []

    def seen(mask: Any, outline: object) -> None:
        drawn.append(mask.shape)
        fill(mask, outline)  # type: ignore[arg-type]

    monkeypatch.setattr("defectgen.data.shapes.fill", seen)
    with pytest.raises(MaskError, match="is 40x8000, but its image defect/b.png is 40x40"):
        Folder(tmp_path)
    assert drawn == [(40, 40)]


def test_labels_that_labelme_reserves_are_no_defects(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "a": content(shape(BOX, label="_background_"), shape([[1, 1], [5, 5]], "rectangle")),
            "b": content(shape(BOX, "line", "__ignore__"), shape(BOX)),
        },
    )
    data = Folder(tmp_path)
    assert list(data.defects) == ["scratch"]
    assert [(np.asarray(m.open()) > 0).sum() for m in data.defects["scratch"].masks] == [16, 100]
    write(tmp_path / "defect" / "a.json", content(shape(BOX, label="__ignore__")))
    with pytest.raises(MaskError, match="a.json: has no shape"):
        Folder(tmp_path)


def test_one_file_is_never_that_of_two_images(tmp_path: Path) -> None:
    tree(tmp_path, {})
    for k, kind in enumerate("AB"):
        photo(tmp_path / "defect" / kind / "01.png", 10 + k)
    write(tmp_path / "labels" / "01.json", content(shape(BOX, label="A")))
    for kind in "AB":
        with pytest.raises(ImageError, match=r"01.png: shares its stem with others"):
            defect_pairs(tmp_path, defect=kind)
    photo(tmp_path / "plain" / "a.png", 20)
    photo(tmp_path / "plain" / "a.jpg", 21)
    write(tmp_path / "plain" / "a.json", content(shape(BOX)))
    with pytest.raises(ImageError, match=r"a.jpg: shares its stem"):
        defect_pairs(tmp_path / "plain")


def test_a_broken_file_of_one_type_hinders_no_other(tmp_path: Path) -> None:
    tree(tmp_path, {"a": content(shape(BOX)), "b": content(shape(BOX, "line", "dent"))})
    assert len(defect_pairs(tmp_path, defect="scratch").images) == 1
    with pytest.raises(MaskError, match="b.json: shape 0 is of the type 'line'"):
        defect_pairs(tmp_path, defect="dent")
    tree(tmp_path / "t", {})
    for k, kind in enumerate("AB"):
        photo(tmp_path / "t" / "defect" / kind / f"{k}.png", 10 + k)
    write(tmp_path / "t" / "labels" / "0.json", content(shape(BOX)))
    (tmp_path / "t" / "labels" / "1.json").write_bytes(b"\xff\xfe{")
    assert len(defect_pairs(tmp_path / "t", defect="A").images) == 1
    with pytest.raises(MaskError, match="1.json: is no UTF-8"):
        defect_pairs(tmp_path / "t", defect="B")


def test_pictures_of_masks_come_first_in_folders_of_types_too(tmp_path: Path) -> None:
    tree(tmp_path, {})
    photo(tmp_path / "defect" / "x" / "a.png", 10)
    write(tmp_path / "masks" / "x" / "a.json", content(shape([[1, 1], [5, 5]], "rectangle")))
    mask(tmp_path / "masks" / "x" / "a.png")
    (found,) = Folder(tmp_path).defects["x"].masks
    assert found == tmp_path / "masks" / "x" / "a.png"


@pytest.mark.parametrize(
    "written", ["[" * 100_000, "\ufeff" + json.dumps(content(shape(BOX)))], ids=["deep", "mark"]
)
def test_json_of_no_image(tmp_path: Path, written: str) -> None:
    tree(tmp_path, {"a": content(shape(BOX))})
    write(tmp_path / "defect" / "z.json", written)
    if written[0] == "[":
        assert len(Folder(tmp_path).defects["scratch"].images) == 1
    else:
        with pytest.raises(MaskError, match="z.json: has labels of no image"):
            Folder(tmp_path)


def test_the_first_versions_had_polygons_only(tmp_path: Path) -> None:
    written = content(shape(BOX))
    del written["shapes"][0]["shape_type"]
    tree(tmp_path, {"a": "\ufeff" + json.dumps(written)})
    assert list(Folder(tmp_path).defects) == ["scratch"]


def test_subfolders_tell_the_type(tmp_path: Path) -> None:
    tree(tmp_path, {})
    for k, kind in enumerate(("x", "y", "z")):
        photo(tmp_path / "defect" / kind / f"{kind}.png", 10 + k)
        write(
            tmp_path / "masks" / ("." if kind == "z" else kind) / f"{kind}.json",
            content(shape(BOX)),
        )
    assert list(Folder(tmp_path).defects) == ["x", "y", "z"]


def test_pictures_of_masks_come_first(tmp_path: Path) -> None:
    tree(tmp_path, {"a": content(shape(BOX)), "b": {"camera": 1}})
    for stem in "ab":
        mask(tmp_path / "defect" / f"{stem}_mask.png")
    assert list(Folder(tmp_path).defects) == ["defect"]


def test_pairs_of_folders(tmp_path: Path) -> None:
    tree(tmp_path, {"a": content(shape(BOX)), "b": content(shape(BOX, label="dent"))}, "json")
    images = tmp_path / "defect"
    found = defect_pairs(images, tmp_path / "json", defect="dent")
    assert [path.name for path in found.images] == ["b.png"]
    (tmp_path / "defect").rename(tmp_path / "dent")
    (tmp_path / "json").rename(tmp_path / "dent_masks")
    assert {kind: len(found.images) for kind, found in Folder(tmp_path).defects.items()} == {
        "dent": 2
    }


def test_one_file_alone_is_no_coco_file(tmp_path: Path) -> None:
    tree(tmp_path, {"a": content(shape(BOX))}, "annotations")
    assert list(Folder(tmp_path).defects) == ["scratch"]
    assert len(defect_pairs(tmp_path / "defect", tmp_path / "annotations").images) == 1


def test_beside_the_photos_of_a_plain_folder(tmp_path: Path) -> None:
    tree(tmp_path, {"a": content(shape(BOX))})
    assert len(defect_pairs(tmp_path / "defect").images) == 1
    assert len(good_images(tmp_path / "defect")) == 1


def test_everything_wrong_is_listed_at_once(tmp_path: Path) -> None:
    files: dict[str, object] = {
        "broken": '{"shapes": [',
        "deep": "[" * 100_000,
        "other": {"camera": 1},
        "list": [1],
        "nolist": content() | {"shapes": {}},
        "empty": content(),
        "many": content(*[1] * 10_001),
        "nosize": content(shape(BOX), size=None),
        "text": content(shape(BOX), size="40"),
        "record": content(shape(BOX), 7),
        "line": content(shape(BOX), shape(BOX, "linestrip")),
        "odd": content(shape(BOX, ["polygon"])),
        "points": content(shape([1, 2, 3])),
        "flat": content(shape(None)),
        "short": content(shape(BOX[:2])),
        "three": content(shape(BOX[:3], "rectangle")),
        "one": content(shape(BOX[:1], "circle")),
        "nan": content(shape([[float("nan"), 1], [2, 3]], "circle")),
        "far": content(shape([[1, 1], [1e9, 1], [1, 2]])),
        "word": content(shape([["1", 1], [2, 2], [1, 2]])),
        "large": content(shape(BOX), size=10**9),
        "other_size": content(shape(BOX), size=30),
        "outside": content(shape([[50, 50], [60, 60]], "rectangle")),
        "point": content(shape([[10, 10], [10, 10]], "circle")),
    }
    tree(tmp_path, files)
    photo(tmp_path / "defect" / "alone.png", 90)
    write(tmp_path / "defect" / "orphan.json", content(shape(BOX)))
    write(tmp_path / "defect" / "notes.json", {"camera": 1})
    (tmp_path / "defect" / "broken.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(MaskError) as caught:
        Folder(tmp_path)
    text = str(caught.value)
    for line in (
        "broken.json: is no UTF-8 text of up to 64 MB",
        "deep.json: is no JSON",
        "other.json: has no 'shapes' and 'imagePath', as LabelMe writes them",
        "list.json: has no 'shapes' and 'imagePath'",
        "nolist.json: has 'shapes' that are no list of up to 10000",
        "many.json: has 'shapes' that are no list of up to 10000",
        "empty.json: has no shape: outline the defect, or drop the image",
        "nosize.json: has no imageHeight and imageWidth",
        "text.json: has no imageHeight and imageWidth",
        "record.json: shape 1 is no record",
        "line.json: shape 1 is of the type 'linestrip': draw polygons, rectangles or circles",
        "odd.json: shape 0 is of the type ['polygon']: draw",
        "points.json: shape 0 has points that are no list of x and y",
        "flat.json: shape 0 has points that are no list of x and y",
        "short.json: shape 0 has an outline of 4 numbers",
        "three.json: shape 0 is a rectangle of 3 points: 2 are needed",
        "one.json: shape 0 is a circle of 1 points: 2 are needed",
        "nan.json: shape 0 has the coordinate nan",
        "far.json: shape 0 has the coordinate 1000000000.0: up to 1e+06 are read",
        "word.json: shape 0 has the coordinate '1'",
        "large.json: has no imageHeight and imageWidth of a picture",
        "other_size.json (other_size.png): is 40x30, but its image defect/other_size.png is 40x40",
        "outside.json (outside.png): is empty",
        "point.json (point.png): is empty",
        "alone.png: has no LabelMe file: add alone.json",
        "orphan.json: has labels of no image: add the image or remove it",
    ):
        assert f"defect/{line}" in text
    assert "notes.json" not in text


def test_no_file_outside_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "elsewhere" / "secret.png", 99)
    tree(tmp_path / "set", {"a": content(shape(BOX))})
    opened: list[Path] = []
    is_file = Path.is_file

    def seen(path: Path) -> bool:
        opened.append(path.resolve())
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", seen)
    Folder(tmp_path / "set")
    assert opened
    assert not any(path.is_relative_to(tmp_path / "elsewhere") for path in opened)


def test_a_link_to_nothing_is_no_file(tmp_path: Path) -> None:
    tree(tmp_path, {})
    photo(tmp_path / "defect" / "a.png", 5)
    (tmp_path / "defect" / "a.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MaskError, match="has no mask: add a.png or a_mask.png"):
        Folder(tmp_path)

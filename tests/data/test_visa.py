from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from data_trees import mask, mvtec, palette, photo, spot, table, visa
from sample_pictures import save

from defectgen import VisA
from defectgen.data.images import load_images, load_pairs
from defectgen.errors import ConfigError, DataWarning, ImageError, MaskError

WAX, BITS = "chunk of wax missing", "foreign particals on candle"


def names(values: list[object]) -> list[str]:
    return [Path(str(value)).name for value in values]


def test_split_and_types_are_those_of_the_tables(tmp_path: Path) -> None:
    visa(tmp_path)
    data = VisA(tmp_path, "candle")
    assert names(data.train_good) == ["0000.JPG", "0001.JPG", "0002.JPG"]
    assert names(data.test_good) == ["0003.JPG"]
    assert list(data.defects) == [WAX, "combined", BITS]
    assert names(data.defects[WAX].images) == ["000.JPG", "001.JPG"]
    assert names(data.defects["combined"].masks) == ["003.png"]
    assert data.test_defects == {}
    assert data.report.problems == ()


def test_a_split_with_defects_in_its_training_part(tmp_path: Path) -> None:
    visa(tmp_path)
    data = VisA(tmp_path, "candle", split="2cls_fewshot")
    assert {kind: names(found.images) for kind, found in data.defects.items()} == {WAX: ["000.JPG"]}
    assert names(data.test_defects[WAX].images) == ["001.JPG"]
    assert set(data.test_defects) == {WAX, BITS, "combined"}
    with pytest.raises(ConfigError, match="split: must be one of '1cls', '2cls_fewshot'"):
        VisA(tmp_path, "candle", split="3cls")


def test_every_class_of_a_mask_is_the_defect(tmp_path: Path) -> None:
    visa(tmp_path, size=(64, 64))
    found = VisA(tmp_path, "candle").defects["combined"]
    pairs = load_pairs(*found, resolution=64, channels=3)
    expected = spot((64, 64), at=18) | spot((64, 64), at=32)
    assert np.array_equal(pairs.masks[0, 0].numpy(), expected > 0)


def test_palettes_and_colors_are_classes_too(tmp_path: Path) -> None:
    home = visa(tmp_path, size=(64, 64))
    truth = home / "Data" / "Masks" / "Anomaly"
    indices = spot((64, 64), 1) | spot((64, 64), 2, at=40)
    palette(truth / "000.png", indices)
    save(truth / "001.png", np.stack([indices * 0, indices * 0, indices * 100], axis=2))
    pairs = load_pairs(*VisA(tmp_path, "candle").defects[WAX], resolution=64, channels=3)
    for drawn in pairs.masks[:, 0].numpy():
        assert np.array_equal(drawn, indices > 0)


def test_oblong_photos_and_masks_become_square_alike(tmp_path: Path) -> None:
    visa(tmp_path)  # 64 wide, 48 high
    data = VisA(tmp_path, "candle")
    pairs = load_pairs(*data.defects[WAX], resolution=64, channels=3)
    marked = np.zeros((64, 64), bool)
    marked[8:56] = spot((48, 64), at=18) > 0
    assert np.array_equal(pairs.masks[0, 0].numpy(), marked)
    good = load_images(data.train_good, resolution=None, channels=3)
    assert good.images.shape == (3, 3, 64, 64)
    assert good.names[0] == "0000.JPG"
    cropped = VisA(tmp_path, "candle", square="crop")
    assert load_images(cropped.train_good, resolution=None, channels=3).images.shape[2:] == (32, 32)
    assert load_pairs(*cropped.defects[WAX], resolution=32, channels=3).masks.any()


def test_without_square_every_oblong_photo_is_an_error(tmp_path: Path) -> None:
    visa(tmp_path)
    with pytest.raises(ImageError, match="got 8 bad of 8"):
        VisA(tmp_path, "candle", square=None)


def test_without_tables_all_normal_images_train(tmp_path: Path) -> None:
    home = visa(tmp_path)
    shutil.rmtree(tmp_path / "split_csv")
    (home / "image_anno.csv").unlink()
    with pytest.warns(DataWarning, match="1cls.csv: is missing") as caught:
        data = VisA(tmp_path, "candle")
    assert "image_anno.csv: is missing" in str(caught[0].message)
    assert len(data.train_good) == 4
    assert data.test_good == []
    assert names(data.defects["anomaly"].masks) == ["000.png", "001.png", "002.png", "003.png"]


def test_the_owners_rearranged_tree(tmp_path: Path) -> None:
    home = mvtec(tmp_path, "candle", kinds=("bad",))
    for k in range(2):
        (home / "ground_truth" / "bad" / f"00{k}_mask.png").unlink()
        mask(home / "ground_truth" / "bad" / f"00{k}.png", spot(value=1) | spot(value=2, at=25))
    data = VisA(tmp_path, "candle")
    assert data.report.layout == "visa"
    assert len(data.train_good) == 3
    pairs = load_pairs(*data.defects["bad"], resolution=32, channels=3)
    assert len(pairs.masks) == 2


def test_everything_wrong_is_listed_at_once(tmp_path: Path) -> None:
    home = visa(tmp_path)
    data = home / "Data"
    (data / "Images" / "Normal" / "0001.JPG").write_bytes(b"broken")
    (data / "Images" / "Normal" / "0002.JPG").unlink()
    photo(data / "Images" / "Normal" / "0009.JPG", 9, (48, 64))
    (data / "Masks" / "Anomaly" / "000.png").unlink()
    mask(data / "Masks" / "Anomaly" / "001.png", spot((48, 64)) * 0)
    mask(data / "Masks" / "Anomaly" / "002.png", spot((64, 48), 1))
    mask(data / "Masks" / "Anomaly" / "777.png", spot((48, 64)))
    photo(data / "Images" / "Anomaly" / "004.JPG", 99, (48, 64))
    with pytest.raises(ImageError) as caught:
        VisA(tmp_path, "candle")
    text = str(caught.value)
    for line in (
        "Data/Images/Normal/0001.JPG: cannot be read",
        "Data/Images/Anomaly/000.JPG: has no mask: add Data/Masks/Anomaly/000.png",
        "Data/Masks/Anomaly/000.png: is named in image_anno.csv as a mask and is not there",
        "Data/Masks/Anomaly/001.png: is empty",
        "Data/Masks/Anomaly/002.png: is 48x64, but its image Data/Images/Anomaly/002.JPG is 64x48",
        "Data/Masks/Anomaly/777.png: is a mask without an image",
        "Data/Images/Anomaly/004.JPG: has no line in image_anno.csv",
    ):
        assert line in text
    warned = {problem.file for problem in VisA.check(tmp_path, "candle").warnings}
    assert "Data/Images/Normal/0002.JPG" in warned  # named and not there
    assert "Data/Images/Normal/0009.JPG" in warned  # in no split


def test_names_in_tables_lead_nowhere_else(tmp_path: Path) -> None:
    home = visa(tmp_path)
    secret = photo(tmp_path / "secret" / "s.png", 5)
    rows = [
        ["candle/../secret/s.png", "normal", ""],
        [str(secret), "normal", ""],
        ["candle/Data/Images/Anomaly/000.JPG", "x\x1b[31m", "candle/../../secret/s.png"],
    ]
    table(home / "image_anno.csv", ["image", "label", "mask"], rows)
    report = VisA.check(tmp_path, "candle")
    found = {problem.file: problem.reason for problem in report.problems}
    assert found["../secret/s.png"].startswith("is named in image_anno.csv and is not there")
    assert found[str(secret)].startswith("is named in image_anno.csv and is not there")
    assert "as a mask and is not there" in found["../../secret/s.png"]
    assert all(line.isprintable() for line in report.lines())


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"a,b\n1,2\n", "has no column image and label"),
        (b"", "has no column image and label"),
        (b"\xff\xfe\x00", "is no UTF-8 text"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, match: str) -> None:
    home = visa(tmp_path)
    (home / "image_anno.csv").write_bytes(content)
    with pytest.raises(ImageError, match=f"image_anno.csv: {match}"):
        VisA(tmp_path, "candle")


def test_tables_of_other_programs(tmp_path: Path) -> None:
    """A byte order mark, an object column, backslashes, short lines."""
    home = visa(tmp_path)
    lines = (home / "image_anno.csv").read_text().splitlines()
    changed = ["object,Image,Label,mask"]
    changed += ["candle," + line.replace("/", "\\").rstrip(",") for line in lines[1:]]
    (home / "image_anno.csv").write_text("\ufeff" + "\n".join(changed), encoding="utf-8")
    data = VisA(tmp_path, "candle")
    assert list(data.defects) == [WAX, "combined", BITS]


def test_a_split_of_other_categories_is_an_error(tmp_path: Path) -> None:
    visa(tmp_path)
    rows = [["capsules", "train", "normal", "capsules/Data/Images/Normal/000.JPG", ""]]
    head = ["object", "split", "label", "image", "mask"]
    table(tmp_path / "split_csv" / "1cls.csv", head, rows)
    with pytest.raises(ImageError, match=r"1cls\.csv: has no line for candle"):
        VisA(tmp_path, "candle")


def test_normal_labels_among_the_anomalies_and_missing_masks(tmp_path: Path) -> None:
    home = visa(tmp_path)
    text = (home / "image_anno.csv").read_text()
    (home / "image_anno.csv").write_text(text.replace("foreign particals on candle,", "normal,"))
    with pytest.raises(ImageError, match=r"002\.JPG: is normal in image_anno\.csv"):
        VisA(tmp_path, "candle")
    with pytest.warns(DataWarning, match="1 errors, whose files were left out"):
        assert list(VisA(tmp_path, "candle", drop_bad=True).defects) == [WAX, "combined"]
    visa(tmp_path)
    shutil.rmtree(home / "Data" / "Masks")
    (home / "image_anno.csv").unlink()
    with pytest.raises(MaskError, match="Data/Masks/Anomaly: is missing") as caught:
        VisA(tmp_path, "candle")
    assert "has no mask" not in str(caught.value)

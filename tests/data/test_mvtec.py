from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from data_trees import mask, mvtec, photo, spot
from PIL import Image

from defectgen import Backbone, DefectSynthesizer, MVTecAD
from defectgen.data.images import load_images, load_pairs
from defectgen.errors import ConfigError, DataWarning, ImageError, MaskError

TINY = {"kimg": 0.032, "batch_size": 4, "seed": 0, "device": "cpu", "verbose": 0}


def test_the_lists_are_those_of_the_folders(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    data = MVTecAD(tmp_path, "bottle")
    assert data.train_good == [home / "train" / "good" / f"00{k}.png" for k in range(3)]
    assert data.test_good == [home / "test" / "good" / "000.png"]
    assert list(data.defects) == ["crack", "dent"]
    assert data.defects["dent"].images == [home / "test" / "dent" / f"00{k}.png" for k in (0, 1)]
    masks = [home / "ground_truth" / "dent" / f"00{k}_mask.png" for k in (0, 1)]
    assert data.defects["dent"].masks == masks
    assert data.test_defects == {}
    assert data.report.ok
    assert data.report.counts == {
        "train/good": 3,
        "test/good": 1,
        "test/crack": 2,
        "test/dent": 2,
    }
    assert repr(data).startswith("<MVTecAD '")


@pytest.mark.usefixtures("tiny")
@pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning")
def test_fit_takes_what_the_loader_gives(tmp_path: Path) -> None:
    mvtec(tmp_path)
    data = MVTecAD(tmp_path, "bottle")
    backbone = Backbone(32, augment="none", **TINY).fit(data.train_good)
    synthesizer = DefectSynthesizer(backbone, **TINY).fit(*data.defects["crack"])
    assert synthesizer.sample(1, seed=0).shape == (1, 3, 32, 32)


def test_masks_without_ending_do_as_well(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    for path in sorted((home / "ground_truth").rglob("*_mask.png")):
        path.rename(path.with_name(path.name.replace("_mask", "")))
    assert len(MVTecAD(tmp_path, "bottle").defects["crack"].masks) == 2


def break_everything(home: Path) -> None:
    """One of each: unreadable, missing and empty mask, mismatch, orphan, and a missing folder."""
    (home / "train" / "good" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (home / "ground_truth" / "crack" / "000_mask.png").unlink()
    mask(home / "ground_truth" / "crack" / "001_mask.png", spot() * 0)
    mask(home / "ground_truth" / "crack" / "009_mask.png")
    mask(home / "ground_truth" / "dent" / "000_mask.png", spot((44, 40)))
    shutil.rmtree(home / "test" / "good")
    photo(home / "test" / "scratch" / "000.png", 90)


EVERYTHING = (
    "train/good/001.png: cannot be read",
    "test/crack/000.png: has no mask: add 000.png or 000_mask.png",
    "ground_truth/crack/001_mask.png: is empty",
    "ground_truth/crack/009_mask.png: is a mask without an image",
    "ground_truth/dent/000_mask.png: is 40x44, but its image test/dent/000.png is 40x40",
    "ground_truth/scratch: is missing",
)


def test_one_error_lists_everything(tmp_path: Path) -> None:
    break_everything(mvtec(tmp_path))
    with pytest.raises(ImageError) as caught:
        MVTecAD(tmp_path, "bottle")
    text = str(caught.value)
    assert "got 6 bad of" in text
    for line in EVERYTHING:
        assert line in text
    assert "dent/001" not in text


def test_check_reports_instead_of_raising(tmp_path: Path) -> None:
    break_everything(mvtec(tmp_path))
    report = MVTecAD.check(tmp_path, "bottle")
    assert not report.ok
    assert len(report.errors) == len(EVERYTHING)
    assert report.warnings == ()
    for line in EVERYTHING:
        assert any(found.strip().startswith(line) for found in report.lines())
    assert report.usable == 3  # two good, one dent


def test_errors_of_masks_alone_are_a_mask_error(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    (home / "ground_truth" / "crack" / "000_mask.png").unlink()
    with pytest.raises(MaskError, match=r"got 1 bad of 7.*\n  test/crack/000.png: has no mask"):
        MVTecAD(tmp_path, "bottle")


def test_more_than_ten_errors_are_listed_too(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    for k in range(30):
        photo(home / "test" / "crack" / f"1{k:02d}.png", 100 + k)
    with pytest.raises(MaskError) as caught:
        MVTecAD(tmp_path, "bottle")
    assert str(caught.value).count("has no mask") == 30


def test_bad_files_can_be_left_out(tmp_path: Path) -> None:
    break_everything(mvtec(tmp_path))
    with pytest.warns(DataWarning, match="6 errors, whose files were left out") as caught:
        data = MVTecAD(tmp_path, "bottle", drop_bad=True)
    assert caught[0].filename == __file__
    assert [path.name for path in data.train_good] == ["000.png", "002.png"]
    assert list(data.defects) == ["dent"]
    assert [path.name for path in data.defects["dent"].images] == ["001.png"]
    load_pairs(*data.defects["dent"], resolution=32, channels=3)


def test_what_is_left_has_to_be_enough(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    shutil.rmtree(home / "ground_truth")
    with pytest.raises(MaskError, match="ground_truth/crack: is missing"):
        MVTecAD(tmp_path, "bottle", drop_bad=True)


def test_copies_between_train_and_test_are_warnings(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    # The same pixels in other bytes.
    Image.open(home / "train" / "good" / "002.png").save(home / "test" / "good" / "7.bmp")
    shutil.copy(home / "train" / "good" / "000.png", home / "train" / "good" / "003.png")
    shutil.copy(home / "train" / "good" / "001.png", home / "test" / "crack" / "001.png")
    with pytest.warns(DataWarning) as caught:
        data = MVTecAD(tmp_path, "bottle")
    assert len(caught) == 1
    found = {problem.file: problem.reason for problem in data.report.warnings}
    assert len(found) == 3
    assert found["test/good/7.bmp"].startswith(
        "is the same picture as train/good/002.png, once in train and once in test"
    )
    assert "copies weigh double" in found["train/good/003.png"]
    assert "train/good/001.png, once good and once with a defect" in found["test/crack/001.png"]
    assert data.report.ok
    for name in found:
        assert name in str(caught[0].message)


def test_oblong_images_need_a_decision(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    photo(home / "train" / "good" / "000.png", 0, (40, 60))
    with pytest.raises(ImageError, match="is 60x40, not square: .* pass square='pad'"):
        MVTecAD(tmp_path, "bottle")
    data = MVTecAD(tmp_path, "bottle", square="crop")
    assert load_images(data.train_good, resolution=32, channels=3).images.shape[0] == 3
    with pytest.raises(ConfigError, match="square: must be one of None, 'crop', 'pad'"):
        MVTecAD(tmp_path, "bottle", square="stretch")  # type: ignore[arg-type]


def test_arguments_are_checked(tmp_path: Path) -> None:
    mvtec(tmp_path)
    with pytest.raises(ImageError, match="root: must name a folder; got .* which is nothing"):
        MVTecAD(tmp_path / "x", "bottle")
    with pytest.raises(ImageError, match="got 'botle', but .* holds bottle; name one"):
        MVTecAD(tmp_path, "botle")
    for category in ("../other", "", ".."):
        with pytest.raises(ConfigError, match="category: must be the name of a folder in root"):
            MVTecAD(tmp_path, category)


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    home = mvtec(tmp_path, kinds=("crack", "d\x1b[2Jent"))
    photo(home / "test" / "crack" / "a\nb.png", 77)
    report = MVTecAD.check(tmp_path, "bottle")
    assert [problem.file for problem in report.errors] == ["test/crack/a?b.png"]
    assert all(line.isprintable() for line in report.lines())


def test_pictures_of_other_kinds_are_named(tmp_path: Path) -> None:
    home = mvtec(tmp_path)
    (home / "test" / "crack" / "009.GIF").write_bytes(b"GIF89a")
    (home / "test" / "crack" / "notes.txt").write_text("x")
    with pytest.warns(DataWarning, match=r"crack/009\.GIF: is of a kind that is not read"):
        data = MVTecAD(tmp_path, "bottle")
    assert len(data.report.problems) == 1


def test_check_refuses_unknown_squares(tmp_path: Path) -> None:
    mvtec(tmp_path)
    with pytest.raises(ConfigError, match="square: must be one of"):
        MVTecAD.check(tmp_path, "bottle", square="stretch")  # type: ignore[arg-type]


def test_the_real_bottle(data_dir: Path) -> None:
    data = MVTecAD(data_dir, "mvtec_bottle")
    assert data.report.problems == ()
    assert data.report.counts == {
        "train/good": 209,
        "test/good": 20,
        "test/broken_large": 20,
        "test/broken_small": 22,
        "test/contamination": 21,
    }
    assert [path.name for path in data.train_good[:2]] == ["000.jpg", "001.jpg"]
    pairs = load_pairs(*data.defects["broken_large"], resolution=64, channels=3)
    folder = data_dir / "mvtec_bottle"
    expected = load_pairs(
        folder / "test" / "broken_large",
        folder / "ground_truth" / "broken_large",
        resolution=64,
        channels=3,
    )
    assert pairs.digest == expected.digest

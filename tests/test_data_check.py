"""`defectgen data check`: layouts found, report, contact sheet, exit codes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from data_trees import mask, mvtec, photo, spot, visa
from PIL import Image

from defectgen.cli import main
from defectgen.data.deferred import SquareImage, SquareMask
from defectgen.data.images import load_pairs
from defectgen.data_check import check_data
from defectgen.errors import ConfigError, DataWarning, ImageError
from defectgen.sheet import OUTLINE


def own(root):
    photo(root / "good" / "0.png", 0)
    photo(root / "scratch" / "0.png", 1)
    mask(root / "scratch_masks" / "0.png")
    return root


def run(*arguments):
    return main(["data", "check", *map(str, arguments)])


def test_a_category_is_recognized_by_its_folders(tmp_path):
    layouts = {
        "mvtec": mvtec(tmp_path / "m"),
        "visa": visa(tmp_path / "v"),
        "folder": own(tmp_path / "o"),
    }
    for layout, folder in layouts.items():
        (report,) = check_data(folder)
        assert report.layout == layout
        assert report.problems == ()
        assert report.usable == sum(report.counts.values()) >= 2


def test_all_categories_of_a_folder(tmp_path):
    mvtec(tmp_path, "bottle")
    mvtec(tmp_path, "cable", kinds=("bad",))
    visa(tmp_path)
    found = {report.folder.rpartition("/")[2]: report.layout for report in check_data(tmp_path)}
    assert found == {"bottle": "mvtec", "cable": "visa", "candle": "visa"}
    (report,) = check_data(tmp_path, category="bottle")
    assert report.layout == "mvtec"
    assert [r.layout for r in check_data(tmp_path, layout="mvtec")] == ["mvtec", "mvtec"]


def test_a_category_that_misses_a_part_is_not_overlooked(tmp_path):
    mvtec(tmp_path, "bottle")
    shutil.rmtree(mvtec(tmp_path, "cable") / "train")
    reports = check_data(tmp_path)
    assert [report.ok for report in reports] == [True, False]
    assert reports[1].errors[0].file == "train/good"


def test_a_linked_category_keeps_its_name_and_split(tmp_path):
    visa(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "candle").rename(tmp_path / "elsewhere" / "c2")
    (tmp_path / "candle").symlink_to(tmp_path / "elsewhere" / "c2")
    (report,) = check_data(tmp_path, category="candle")
    assert report.problems == ()


def test_the_layout_can_be_demanded(tmp_path):
    own(tmp_path)
    (report,) = check_data(tmp_path, layout="mvtec")
    assert "train/good" in [problem.file for problem in report.errors]
    with pytest.raises(ConfigError, match="layout: must be one of 'auto'"):
        check_data(tmp_path, layout="coco")
    with pytest.raises(ImageError, match="path: must name a folder"):
        check_data(tmp_path / "x")


def test_the_table_of_the_split_is_found_from_inside(tmp_path, monkeypatch):
    monkeypatch.chdir(visa(tmp_path))
    (report,) = check_data(".")
    assert report.problems == ()
    assert report.counts["test/good"] == 1


def test_the_split_can_be_chosen(tmp_path, capsys):
    visa(tmp_path / "v")
    assert run(tmp_path / "v", "--split", "2cls_fewshot") == 0
    assert "train/chunk of wax missing" in capsys.readouterr().out
    assert run(tmp_path / "v", "--split", "few") == 2
    mvtec(tmp_path / "m")
    assert run(tmp_path / "m", "--split", "1cls") == 2
    few, other = capsys.readouterr().err.splitlines()
    assert few.startswith("defectgen: --split: must be one of ")
    assert other.startswith("defectgen: --split: belongs to VisA as its owners distribute it; got ")


def test_report_and_sheet(tmp_path, capsys):
    home = mvtec(tmp_path)
    for k in range(20):
        photo(home / "train" / "good" / f"1{k:02d}.png", 200 + k)
    sheet = tmp_path / "out" / "sheet.png"
    assert run(home, "--sheet", sheet) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{home} (mvtec)"
    assert "  train/good  23" in printed
    assert printed[-3:] == ["errors: none", "warnings: none", f"contact sheet: {sheet}"]
    picture = np.asarray(Image.open(sheet).convert("RGB"))
    assert picture.shape == (4 * (16 + 96), 8 * 96, 3)
    outlined = (picture == OUTLINE).all(axis=2)
    assert not outlined[: 2 * 112].any()  # good images
    for row in (2, 3):
        assert outlined[row * 112 : (row + 1) * 112].any()


def test_errors_are_exit_code_1_and_one_sentence(tmp_path, capsys):
    home = mvtec(tmp_path)
    mask(home / "ground_truth" / "crack" / "000_mask.png", spot() * 0)
    shutil.copy(home / "train" / "good" / "000.png", home / "test" / "good" / "000.png")
    assert run(tmp_path, "--category", "bottle", "--sheet", tmp_path / "s.png") == 1
    shown = capsys.readouterr()
    assert "errors: 1\n  ground_truth/crack/000_mask.png: is empty" in shown.out
    assert "warnings: 1\n  test/good/000.png: is the same picture" in shown.out
    assert shown.err.startswith("defectgen: path: all files must be usable; got 1 error in ")
    assert len(shown.err.splitlines()) == 1
    assert (tmp_path / "s.png").is_file()


def test_warnings_alone_are_exit_code_0(tmp_path, capsys):
    home = mvtec(tmp_path)
    shutil.copy(home / "train" / "good" / "000.png", home / "test" / "good" / "000.png")
    assert run(home) == 0
    shown = capsys.readouterr()
    assert "warnings: 1" in shown.out
    assert shown.err == ""


def test_a_mask_that_is_not_turned_with_its_photo_is_told(tmp_path):
    home, exif = mvtec(tmp_path), Image.Exif()
    exif[0x0112] = 3
    with Image.open(home / "test" / "crack" / "000.png") as image:
        image.save(home / "test" / "crack" / "000.png", exif=exif)
    told = check_data(home)[0].lines()[-1]
    assert told.startswith(
        "  ground_truth/crack/000_mask.png: is not turned by EXIF as the photo is"
    )


@pytest.mark.parametrize("orientation", [3, 6])
def test_oblong_photos_that_exif_turns(tmp_path, orientation):
    """Of half a turn sizes tell nothing; of a quarter they fit what was drawn as it is seen."""
    home, exif = mvtec(tmp_path), Image.Exif()
    exif[0x0112] = orientation
    names = home / "test" / "crack" / "000.png", home / "ground_truth" / "crack" / "000_mask.png"
    raw, seen = (80, 40), (80, 40) if orientation == 3 else (40, 80)
    Image.fromarray(np.full((raw[1], raw[0], 3), 99, np.uint8)).save(names[0], exif=exif)
    drawn = np.zeros((seen[1], seen[0]), np.uint8)
    drawn[15:30, 15:30] = 255
    Image.fromarray(drawn).save(names[1])
    pair = [SquareImage(names[0], "crop")], [SquareMask(names[1], "crop")]
    told = "is not turned by EXIF" in "".join(check_data(home, square="crop")[0].lines())
    assert told == (orientation == 3)
    if orientation == 3:
        with pytest.warns(DataWarning, match="are not turned by EXIF"):
            load_pairs(*pair, resolution=32, channels=3)


def test_what_can_be_used_and_looks_wrong_is_told(tmp_path):
    home = mvtec(tmp_path)
    path = home / "train" / "good" / "000.png"
    with Image.open(path) as image:
        Image.fromarray(np.asarray(image) // 17).save(path)
    told = check_data(home)[0].lines()[-1]
    assert told.startswith("  train/good/000.png: has no value above 15 of 255")


def test_oblong_photos(tmp_path, capsys):
    own(tmp_path)
    photo(tmp_path / "good" / "0.png", 0, (40, 60))
    assert run(tmp_path) == 1
    assert "not square: crop it, cut windows, or give --square pad" in capsys.readouterr().out
    assert run(tmp_path, "--square", "crop", "--sheet", tmp_path / "s.png") == 0


def test_nothing_to_draw_is_said(tmp_path, capsys):
    assert run(tmp_path, "--sheet", tmp_path / "s.png") == 1
    assert "contact sheet: none, as no image can be used" in capsys.readouterr().out
    assert not (tmp_path / "s.png").exists()


def test_a_sheet_that_cannot_be_written_stops_before_the_work(tmp_path, capsys, monkeypatch):
    home = mvtec(tmp_path)
    monkeypatch.setattr("defectgen.data_check.inspect", None)
    (tmp_path / "x.png").mkdir()
    for sheet, words in (
        (tmp_path / "s.jpg", "must end in .png; got "),
        (tmp_path / "x.png", "must name a file; got the folder "),
        (home / "train" / "good" / "000.png" / "s.png", "must be a place that can be written to"),
    ):
        assert run(home, "--sheet", sheet) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"defectgen: --sheet: {words}")
        assert len(error.splitlines()) == 1
    with pytest.raises(ConfigError, match=r"^sheet: must end in .png; got .*; name it so"):
        check_data(home, sheet="s")


def test_the_real_sets(data_dir):
    reports = check_data(data_dir)
    assert {report.layout for report in reports} == {"mvtec"}
    bottle = next(r for r in reports if r.folder.endswith("mvtec_bottle"))
    assert bottle.usable == 209 + 20 + 20 + 22 + 21

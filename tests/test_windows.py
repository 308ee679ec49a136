"""Windows of large photos: what is cut, and what is put back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data_trees import mask, mvtec, photo, spot
from PIL import Image

from defectgen import MVTecAD
from defectgen.cli import main
from defectgen.data.images import load_images, load_pairs
from defectgen.errors import ConfigError, DataWarning, ImageError, MaskError
from defectgen.windows import cut_defects, cut_good
from defectgen.windows_join import join_windows
from defectgen.windows_places import _sums, defect_places
from defectgen.writer import write_samples


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def records(folder: Path, name: str = "windows.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Two good photos, 60 x 90 px."""
    for k in range(2):
        photo(tmp_path / "good" / f"{k}.png", k, (60, 90))
    return tmp_path / "good"


# -- good photos -----------------------------------------------------------------------------------


def test_windows_are_parts_of_their_photos(large, tmp_path):
    assert cut_good(large, tmp_path / "w", side=32, count=3, seed=5) == 6
    found = records(tmp_path / "w")
    assert [one["window"] for one in found] == [f"{k:06d}.png" for k in range(6)]
    assert [one["photo"] for one in found] == 3 * ["0.png"] + 3 * ["1.png"]
    for one in found:
        assert (one["side"], one["width"], one["height"]) == (32, 90, 60)
        top, left = one["top"], one["left"]
        whole = pixels(large / one["photo"])
        cut = pixels(tmp_path / "w" / one["window"])
        assert np.array_equal(cut, whole[top : top + 32, left : left + 32])
    assert len({(one["photo"], one["left"], one["top"]) for one in found}) == 6
    data = load_images(tmp_path / "w", resolution=32, channels=3)  # as a backbone takes them
    assert data.names == tuple(one["window"] for one in found)


def test_places_depend_on_the_seed_and_the_photo_alone(large, tmp_path):
    cut_good(large, tmp_path / "a", side=32, seed=5)
    (large / "0.png").unlink()
    cut_good(large, tmp_path / "b", side=32, seed=5)
    cut_good(large, tmp_path / "c", side=32, seed=6)
    a, b, c = (
        [(one["photo"], one["left"], one["top"]) for one in records(tmp_path / name)]
        for name in "abc"
    )
    assert a[4:] == b != c


@pytest.mark.filterwarnings("always::defectgen.errors.DataWarning")
@pytest.mark.parametrize("command", ["goods", "defects"])
def test_small_photos_are_left_out_if_that_is_asked_for(large, tmp_path, command, capsys):
    photo(large / "small.png", 9, (31, 70))
    for name in ("0", "1", "small"):
        mask(tmp_path / "masks" / f"{name}.png", spot((31 if name == "small" else 60, 90))[:, :90])
    mask(tmp_path / "masks" / "small.png", spot((31, 70)))
    given = [command, large, *([tmp_path / "masks"] if command == "defects" else [])]
    assert run("windows", *given, "--side", 32, "--out", tmp_path / "w") == 1
    assert capsys.readouterr().err.endswith("choose a smaller side, or give --drop-bad\n")
    assert run("windows", *given, "--side", 32, "--out", tmp_path / "w", "--drop-bad") == 0
    assert "small.png is 70x31; these are left out" in capsys.readouterr().err
    assert {one["photo"] for one in records(tmp_path / "w")} == {"0.png", "1.png"}


def test_long_photos_are_no_larger_than_they_are(tmp_path):
    """A square of this side would have more pixels than are read."""
    photo(tmp_path / "good" / "a.png", 1, (40, 9000))
    assert cut_good(tmp_path / "good", tmp_path / "w", side=32, count=2) == 2


def test_a_mask_that_has_changed_since_it_was_looked_at(tmp_path, monkeypatch):
    from defectgen import windows

    photo(tmp_path / "bad" / "0.png", 0, (60, 90))
    truth = mask(tmp_path / "masks" / "0.png", spot((60, 90)))
    look = windows._large_enough
    monkeypatch.setattr(windows, "_large_enough", lambda *a: (truth.unlink(), look(*a))[1])
    with pytest.raises(MaskError, match="^masks: readable masks; got '.*0.png', which does not ex"):
        cut_defects(tmp_path / "bad", tmp_path / "masks", tmp_path / "w", side=32)


def test_what_fit_would_no_longer_see_is_told(tmp_path):
    first = photo(tmp_path / "good" / "a.png", 1, (40, 60))
    (tmp_path / "good" / "b.png").write_bytes(first.read_bytes())
    with pytest.warns(DataWarning, match="is the same picture as a.png"):
        cut_good(tmp_path / "good", tmp_path / "w", side=32)


def test_a_name_that_is_no_text(tmp_path):
    photo(tmp_path / "good" / "M\udcfcller.png", 1, (40, 60))
    assert cut_good(tmp_path / "good", tmp_path / "w", side=32) == 4
    assert len(records(tmp_path / "w")) == 4


def test_pictures_of_other_modes_are_refused_by_name(tmp_path):
    (tmp_path / "good").mkdir()
    Image.new("LAB", (60, 40), (100, 3, 5)).save(tmp_path / "good" / "a.tif")
    with pytest.raises(ImageError, match="a.tif: has the PIL mode LAB"):
        cut_good(tmp_path / "good", tmp_path / "w", side=32)


def test_a_photo_of_the_size_of_a_window_is_cut_once(tmp_path):
    photo(tmp_path / "good" / "a.png", 1, (32, 32))
    photo(tmp_path / "good" / "b.png", 2, (32, 33))
    assert cut_good(tmp_path / "good", tmp_path / "w", side=32) == 3
    assert {one["left"] for one in records(tmp_path / "w") if one["photo"] == "b.png"} == {0, 1}


def test_data_sets_are_cut_below_their_folder(tmp_path):
    home = mvtec(tmp_path / "m")
    assert cut_good(tmp_path / "m", tmp_path / "w", side=32, count=1) == 3
    assert records(tmp_path / "w")[0]["photo"] == "bottle/train/good/000.png"
    assert cut_defects(home, None, tmp_path / "d", side=32, defect="dent") == 2
    assert records(tmp_path / "d")[1]["photo"] == "test/dent/001.png"


def test_photos_are_decoded_as_a_whole(tmp_path):
    """A dark part of a photo of 16 bits is no photo of 8 bits."""
    (tmp_path / "good").mkdir()
    deep = np.full((40, 80), 200, np.uint16)
    deep[:, 60:] = 60000
    Image.fromarray(deep).save(tmp_path / "good" / "a.png")
    cut_good(tmp_path / "good", tmp_path / "w", side=32, count=20)
    for one in records(tmp_path / "w"):
        cut = pixels(tmp_path / "w" / one["window"])
        expected = (deep[one["top"] :, one["left"] :][:32, :32].astype(int) + 128) // 257
        assert np.array_equal(cut, expected)  # gray stays gray


def test_photos_smaller_than_a_window_are_listed_before_anything_is_written(large, tmp_path):
    photo(large / "small.png", 9, (40, 70))
    with pytest.raises(ImageError, match=r"^side: at most .* got 64, and 0.png is 90x60, 1"):
        cut_good(large, tmp_path / "w", side=64)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [({"side": 48}, "^side: "), ({"count": 0}, "^count: "), ({"seed": -1}, "^seed: ")],
)
def test_wrong_numbers(large, tmp_path, more, words):
    with pytest.raises(ConfigError, match=words):
        cut_good(large, tmp_path / "w", **{"side": 32, **more})
    assert not (tmp_path / "w").exists()


def test_a_folder_with_content_is_refused(large, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="^out: "):
        cut_good(large, tmp_path / "w", side=32)


# -- defects ---------------------------------------------------------------------------------------


def test_sums_are_those_of_the_windows():
    drawn = np.random.default_rng(0).random((9, 13)) < 0.3
    expected = [[drawn[r : r + 4, c : c + 4].sum() for c in range(10)] for r in range(6)]
    assert np.array_equal(_sums(drawn, 4), expected)


def test_a_defect_lies_whole_and_in_the_middle():
    drawn = np.zeros((100, 200), bool)
    drawn[40:50, 120:140] = True
    assert defect_places(drawn, 32, 4) == [(114, 29)]
    drawn[5:9, 3:6] = True  # another one, near the corner, where no window has it in the middle
    (left, top), (other, above) = defect_places(drawn, 32, 4)
    assert (left, top) == (114, 29)
    assert 0 <= other <= 3
    assert 0 <= above <= 5
    assert len(defect_places(drawn, 32, 1)) == 1
    drawn[90, 10] = True  # however small
    assert len(defect_places(drawn, 32, 4)) == 3


def test_equal_defects_lie_in_the_middle_of_their_windows():
    drawn = np.zeros((400, 400), bool)
    spots = [(60, 60), (200, 330), (300, 110)]
    for row, column in spots:
        drawn[row : row + 3, column : column + 3] = True
    found = defect_places(drawn, 64, 4)
    assert sorted((top + 31, left + 31) for left, top in found) in (
        spots, [(row + 1, column + 1) for row, column in spots]
    )  # fmt: skip


def test_places_are_the_best_there_are():
    """Against all windows, looked at one by one."""
    drawn = np.random.default_rng(3).random((40, 50)) < 0.02
    (left, top), *_ = defect_places(drawn, 16, 4)
    most = max(drawn[r : r + 16, c : c + 16].sum() for r in range(25) for c in range(35))
    assert drawn[top : top + 16, left : left + 16].sum() == most


def test_what_is_left_at_an_edge_is_no_window_of_its_own():
    drawn = np.zeros((64, 200), bool)
    drawn[30:33, 50:84] = True  # two pixels longer than a window
    assert len(defect_places(drawn, 32, 4)) == 1
    drawn[30:33, 50:120] = True
    assert len(defect_places(drawn, 32, 4)) == 3


def test_what_fills_a_window_is_cut_at_its_edge():
    drawn = np.zeros((100, 100), bool)
    drawn[:, :60] = True
    for left, top in defect_places(drawn, 32, 4):
        assert drawn[top : top + 32, left : left + 32].mean() <= 0.8
    assert defect_places(np.ones((64, 64), bool), 32, 4) == []


def test_masks_are_cut_with_their_photos(tmp_path):
    for k in range(2):
        photo(tmp_path / "bad" / f"{k}.png", k, (60, 90))
        mask(tmp_path / "masks" / f"{k}.png", spot((60, 90), at=20 + k))
    assert cut_defects(tmp_path / "bad", tmp_path / "masks", tmp_path / "w", side=32) == 2
    for one in records(tmp_path / "w"):
        top, left = one["top"], one["left"]
        for part, home in (("images", "bad"), ("masks", "masks")):
            whole = pixels(tmp_path / home / one["photo"])
            cut = pixels(tmp_path / "w" / part / one["window"])
            assert np.array_equal(cut, whole[top : top + 32, left : left + 32])
    pairs = load_pairs(tmp_path / "w/images", tmp_path / "w/masks", resolution=32, channels=3)
    assert pairs.masks.sum((1, 2, 3)).tolist() == [100, 100]


def test_what_no_window_shows_is_told(tmp_path):
    photo(tmp_path / "bad" / "0.png", 0, (60, 190))
    mask(tmp_path / "masks" / "0.png", spot((60, 190)) | spot((60, 190), at=45))
    given = (tmp_path / "bad", tmp_path / "masks")
    with pytest.warns(DataWarning, match=r"^count: .* for 1 of 1 photos \(0.png 50%\); raise"):
        cut_defects(*given, tmp_path / "w", side=32, count=1)
    assert cut_defects(*given, tmp_path / "v", side=32) == 2  # a warning would be an error here


# -- put back --------------------------------------------------------------------------------------


@pytest.fixture
def joined(large, tmp_path):
    """Windows of two photos, and what was drawn on them: a white square in a mask."""
    cut_good(large, tmp_path / "w", side=32, count=2)
    (tmp_path / "s" / "images").mkdir(parents=True)
    (tmp_path / "s" / "masks").mkdir()
    lines = []
    for k, one in enumerate(reversed(records(tmp_path / "w"))):
        drawn = pixels(tmp_path / "w" / one["window"]).copy()
        drawn[4:9, 10:20] = 255
        Image.fromarray(drawn).save(tmp_path / "s" / "images" / f"{k}.png")
        marked = np.zeros((32, 32), np.uint8)
        marked[4:9, 10:20] = 255
        Image.fromarray(marked).save(tmp_path / "s" / "masks" / f"{k}.png")
        line = {"image": f"images/{k}.png", "mask": f"masks/{k}.png", "seed": k}
        lines.append(json.dumps({**line, "background": one["window"]}) + "\n")
    (tmp_path / "s" / "metadata.jsonl").write_text("".join(lines))
    return tmp_path


def join(root: Path) -> int:
    return join_windows(root / "s", root / "w", root / "good", root / "full")


def test_samples_go_where_their_windows_lay(joined):
    assert join(joined) == 4
    found = records(joined / "full", "metadata.jsonl")
    cuts = list(reversed(records(joined / "w")))
    assert [one["seed"] for one in found] == [0, 1, 2, 3]
    for one, cut in zip(found, cuts, strict=True):
        assert {key: one[key] for key in ("photo", "left", "top")} == {
            key: cut[key] for key in ("photo", "left", "top")
        }
        expected, marked = pixels(joined / "good" / one["photo"]).copy(), np.zeros((60, 90), bool)
        part = slice(cut["top"] + 4, cut["top"] + 9), slice(cut["left"] + 10, cut["left"] + 20)
        expected[part], marked[part] = 255, True
        assert np.array_equal(pixels(joined / "full" / one["image"]), expected)
        assert np.array_equal(pixels(joined / "full" / one["mask"]) > 0, marked)
        assert set(np.unique(pixels(joined / "full" / one["mask"]))) == {0, 255}
        assert one["mask_area"] == pytest.approx(50 / 5400, abs=1e-8)
        assert one["side"] == 32
        assert "normal" not in one


def test_folders_as_those_of_mvtec(joined):
    places = (joined / "s", joined / "w", joined / "good", joined / "full")
    assert join_windows(*places, layout="mvtec", defect="scratch") == 4
    assert (joined / "full" / "test" / "scratch" / "000003.png").is_file()
    assert (joined / "full" / "ground_truth" / "scratch" / "000003_mask.png").is_file()
    assert records(joined / "full", "metadata.jsonl")[3]["image"] == "test/scratch/000003.png"


def test_a_colored_defect_on_a_gray_part_keeps_its_color(tmp_path, large):
    for path in large.iterdir():
        Image.open(path).convert("L").save(path)
    cut_good(large, tmp_path / "w", side=32, count=1)
    (one, _) = records(tmp_path / "w")
    drawn = np.repeat(pixels(tmp_path / "w" / one["window"])[..., None], 3, 2)
    drawn[4:9, 10:20] = 255, 0, 0
    marked = (drawn[..., 1] == 0) & (drawn[..., 0] == 255)
    batch = {"image": drawn, "mask": marked.astype(np.uint8) * np.uint8(255)}
    (tmp_path / "s").mkdir()
    for part, values in batch.items():
        Image.fromarray(values).save(tmp_path / "s" / f"{part}.png")
    line = {"image": "image.png", "mask": "mask.png", "background": one["window"]}
    (tmp_path / "s" / "metadata.jsonl").write_text(json.dumps(line))
    assert join(tmp_path) == 1
    whole = pixels(tmp_path / "full" / "images" / "000000.png")
    assert whole[one["top"] + 5, one["left"] + 12].tolist() == [255, 0, 0]


def test_photos_may_be_links(joined):
    (joined / "elsewhere").mkdir()
    for path in list((joined / "good").iterdir()):
        path.rename(joined / "elsewhere" / path.name)
        path.symlink_to(joined / "elsewhere" / path.name)
    assert join(joined) == 4


def test_real_samples_are_put_back(large, fitted_synth, tmp_path):
    side = fitted_synth.backbone_.generator.config.resolution
    cut_good(large, tmp_path / "w", side=side)
    batches = fitted_synth.iter_samples(6, seed=3, good_images=tmp_path / "w")
    write_samples(batches, tmp_path / "s", metadata={})
    assert join(tmp_path) == 6
    for one in records(tmp_path / "full", "metadata.jsonl"):
        whole = np.asarray(Image.open(large / one["photo"]).convert("RGB")).astype(int)
        drawn = np.asarray(Image.open(tmp_path / "full" / one["image"]).convert("RGB")).astype(int)
        inside = np.zeros(whole.shape[:2], bool)
        inside[one["top"] : one["top"] + side, one["left"] : one["left"] + side] = True
        assert np.array_equal(drawn[~inside], whole[~inside])
        assert (drawn[inside] != whole[inside]).any()


def spoiled(root: Path, file: str, **change: object) -> None:
    """The first record of a file with other values."""
    lines = (root / file).read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), **change})
    (root / file).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (
            "s/metadata.jsonl",
            {"background": "x.png"},
            "^samples: drawn with .*'x.png'",
        ),
        ("s/metadata.jsonl", {"background": [1]}, "^samples: drawn with --good-images "),
        ("s/metadata.jsonl", {"image": "../w/000000.png"}, "^samples: records name files in th"),
        (
            "s/metadata.jsonl",
            {"mask": None},
            "^samples: records name files in th",
        ),
        ("s/metadata.jsonl", {"mask": "images/0.png"}, "^samples: masks of 0 and 255"),
        ("s/metadata.jsonl", {"image": "\ud800.png"}, "^samples: "),
        ("s/metadata.jsonl", {"seed": float("nan")}, "^samples: "),
        ("w/windows.jsonl", {"photo": "/etc/passwd"}, "^photos: records name files in their f"),
        (
            "w/windows.jsonl",
            {"window": "000001.png"},
            "^windows: one line for each; got 4",
        ),
        ("w/windows.jsonl", {"photo": "../w/000000.png"}, "^photos: records name files in their f"),
        (
            "w/windows.jsonl",
            {"photo": "1.png"},
            "^photos: .* got '1.png', which is another one",
        ),
        ("w/windows.jsonl", {"left": -5}, "^photos: those that the windows were cut of"),
        ("w/windows.jsonl", {"top": 10**9}, "^photos: those that the windows were cut of"),
        ("w/windows.jsonl", {"side": 10**9}, "^photos: those that the windows were cut of"),
        ("w/windows.jsonl", {"left": "0"}, "^Window.left: of type int; got '0'"),
        ("w/windows.jsonl", {"more": 1}, "more"),
    ],
    ids=str,
)
def test_records_that_were_changed(joined, file, change, words):
    spoiled(joined, file, **change)
    with pytest.raises(ConfigError, match=words):
        join(joined)
    # So the command can be given again.
    assert not (joined / "full").exists() or list((joined / "full").iterdir()) == []


def test_a_photo_that_has_changed_is_refused(joined):
    photo(joined / "good" / "0.png", 77, (60, 90))
    with pytest.raises(ConfigError, match="^photos: those that the .* cut of; got '0.png'"):
        join(joined)


def test_samples_of_another_size_are_refused(joined):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(joined / "s" / "images" / "0.png")
    with pytest.raises(ConfigError, match="^samples: as large as the windows, 32 px; got 64 px in"):
        join(joined)


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "\xff"])
def test_folders_that_are_not_complete(joined, text):
    path = joined / "s" / "metadata.jsonl"
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="^samples: "):
        join(joined)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_cuts_and_puts_back(joined, capsys):
    full = ("--windows", joined / "w", "--photos", joined / "good", "--out", joined / "full")
    assert run("windows", "join", joined / "s", *full) == 0
    assert capsys.readouterr().out == f"4 photos with a defect: {joined / 'full'}\n"
    mask(joined / "masks" / "0.png", spot((60, 90)))
    mask(joined / "masks" / "1.png", spot((60, 90), at=30))
    cutting = ("--side", 32, "--out")
    pair = (joined / "good", joined / "masks")
    assert run("windows", "defects", *pair, *cutting, joined / "d") == 0
    assert run("windows", "goods", joined / "good", *cutting, joined / "g", "--count", 1) == 0
    said = [f"2 windows: {joined / name}" for name in "dg"]
    assert capsys.readouterr().out.splitlines() == said
    assert run("windows", "goods", joined / "missing", *cutting, joined / "x") == 1
    assert capsys.readouterr().err.startswith("defectgen: PHOTOS: must name a folder; got ")
    assert run("windows", "goods", joined / "good", "--side", 64, "--out", joined / "x") == 1
    assert "defectgen: --side: at most the shorter side of every photo" in capsys.readouterr().err
    assert run("windows", "goods", joined / "good", *cutting, joined / "g") == 2
    assert "defectgen: --out: must be " in capsys.readouterr().err
    assert run("windows", "join", joined / "g", *full[:-1], joined / "x") == 2
    assert "defectgen: SAMPLES: a folder that `defectgen sample` wrote" in capsys.readouterr().err
    given = ("windows", "join", joined / "s", *full[:-1], joined / "m", "--defect", "scratch")
    assert run(*given) == 2
    assert "--defect: belongs to --format mvtec" in capsys.readouterr().err
    assert run(*given, "--format", "mvtec") == 0


def test_ctrl_c_says_what_is_left(large, tmp_path, monkeypatch, capsys):
    from defectgen import windows

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(windows, "_random_places", stop)
    out = tmp_path / "w"
    assert run("windows", "goods", large, "--side", 32, "--out", out) == 130
    said = f"defectgen: interrupted; {out} holds a set that is not complete; remove it"
    assert capsys.readouterr().err.startswith(said)


def test_a_side_that_a_backbone_does_not_take_by_itself(tmp_path, capsys):
    photo(tmp_path / "good" / "a.png", 1, (512, 600))
    out = tmp_path / "w"
    assert run("windows", "goods", tmp_path / "good", "--side", 512, "--out", out) == 0
    assert capsys.readouterr().out.endswith("; train with --resolution 512\n")


def test_loaders_know_no_photos_that_are_not_square(tmp_path):
    mvtec(tmp_path)
    with pytest.raises(ConfigError, match="^square: must be one of .*; got 'whole'"):
        MVTecAD(tmp_path, "bottle", square="whole")

"""The scripts under examples/, on made-up data and for one iteration each."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import defectgen
from defectgen.data.example import ASSETS

EXAMPLES = Path(defectgen.__file__).parents[1] / "examples"
pytestmark = [
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs a checkout"),
    pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning"),
]


@pytest.fixture
def script(monkeypatch):
    """script(name): the module of examples/name.py, with few samples."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "SAMPLES", 12)
        return module

    return load


@pytest.fixture
def call(monkeypatch):
    """call(module, *arguments): run the script."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()

    return run


@pytest.fixture
def tiles(tmp_path):
    """A folder of 3 tiles in the layout of the real ones: two good exposures each, one blowhole."""
    root = tmp_path / "data" / "magnetic_tile"
    source = np.random.default_rng(0)
    for part in ("train/good", "test/blowhole", "ground_truth/blowhole"):
        (root / part).mkdir(parents=True)
    rows = ["class,name,approx_tile_group"]
    for tile in range(3):
        picture = source.integers(90, 160, (256, 256), dtype=np.uint8)
        for exposure in "ba":
            Image.fromarray(picture).save(root / f"train/good/{tile}{exposure}.jpg")
            rows.append(f"good,{tile}{exposure},g{tile}")
        mask = np.zeros((256, 256), np.uint8)
        mask[100 * tile : 100 * tile + 6, 20:30] = 255
        Image.fromarray(picture).save(root / f"test/blowhole/{tile}.jpg")
        Image.fromarray(mask).save(root / f"ground_truth/blowhole/{tile}_mask.png")
        rows.append(f"blowhole,{tile},h{tile}")
    rows.append("good,gone,g9")  # an image of the test set
    (root / "approx_groups.csv").write_text("\n".join(rows) + "\n")
    return root


def test_one_exposure_of_each_tile_and_whole_defects(script, tiles):
    real = script("real_data")
    assert real.first_of_each_group(tiles, "good") == ["0a", "1a", "2a", "gone"]
    goods = real.good_pictures("tile", tiles.parent, 0)
    assert len(goods) == 3 * real.WINDOWS
    assert {picture.size for picture in goods} == {(64, 64)}
    images, masks = real.defect_pictures("tile", tiles.parent, 0)
    assert len(images) == len(masks) == 3
    assert [int((np.array(mask) > 0).sum()) for mask in masks] == [60, 60, 60]


@pytest.mark.parametrize(
    ("box", "starts"),
    [
        ((100, 100, 110, 104), (range(52, 95), range(46, 95))),
        ((0, 250, 4, 256), (range(1), range(192, 193))),
        ((10, 20, 110, 40), (range(28, 29), range(15))),
    ],
    ids=["anywhere", "corner", "larger than a window"],
)
def test_windows_hold_the_defect_with_a_margin(script, box, starts):
    real, draw = script("real_data"), random.Random(0)
    mask = Image.new("L", (256, 256))
    mask.paste(255, box)
    found = [real.window_around(mask, draw) for _ in range(400)]
    assert {x for x, *_ in found} == set(starts[0])
    assert {y for _, y, *_ in found} == set(starts[1])
    assert all((right - left, low - top) == (64, 64) for left, top, right, low in found)


def test_real_data_trains_samples_scores_and_goes_on(script, call, tiles, tmp_path):
    real, out = script("real_data"), tmp_path / "out"
    short = ("--backbone-kimg", 0.016, "--defect-kimg", 0.016, "--out", out)
    for _ in range(2):
        call(real, "tile", "--data", tiles.parent, *short)
    assert (out / "contact_sheet.png").is_file()
    assert len(list((out / "samples" / "images").iterdir())) == 12
    record = json.loads((out / "scores.json").read_text())
    assert set(record["scores"]["swd_generated"]) == {"value", "protocol"}
    assert record["backbone"]["backbone"]["channels"] == 1


def test_train_demo_writes_both_folders_with_all_that_is_known(script, call, tmp_path, monkeypatch):
    demo, home = script("train_demo"), tmp_path / "assets" / "hazelnut"
    for part in ("good", "defect", "mask"):
        shutil.copytree(ASSETS / "hazelnut" / part, home / part)
    monkeypatch.setattr(demo, "ASSETS", home.parent)
    work = tmp_path / "work"
    call(demo, "--backbone-kimg", 0.016, "--defect-kimg", 0.016, "--work", work)
    for part in ("backbone", "synthesizer"):
        config = json.loads((home / part / "config.json").read_text())["config"]
        assert config["minutes"] >= 0
        assert {"seed", "kimg"} <= set(config["training"])
        assert config["data"]["digest"].startswith("sha256:")
        assert "swd_generated" in config["scores"]

"""benchmarks/learning*.py: windows of tiles, splits, the bootstrap, and a small run of it all."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import defectgen
from defectgen.downstream.curve import interval
from defectgen.metrics.distances import kid

ROOT = Path(defectgen.__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks lie in the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    learning,
    learning_backbones,
    learning_fits,
    learning_sets,
    learning_table,
)
from benchmarks.learning_bootstrap import kid_draws  # noqa: E402
from benchmarks.learning_records import Records  # noqa: E402

TILE = learning_sets.PRODUCTS["tile"]


@pytest.fixture
def tiles(tmp_path):
    """Tiles in the layout of the real ones: two good exposures of each, eight cracks."""
    root = tmp_path / "data" / "magnetic_tile"
    source = np.random.default_rng(0)
    for part in ("train/good", "test/good", "test/crack", "ground_truth/crack"):
        (root / part).mkdir(parents=True)
    rows = ["class,name,approx_tile_group"]
    for tile in range(8):
        picture = source.integers(90, 160, (256, 256), dtype=np.uint8)
        for exposure in "ba":
            part = "train" if tile < 5 else "test"
            Image.fromarray(picture).save(root / part / f"good/{tile}{exposure}.jpg")
            rows.append(f"good,{tile}{exposure},g{tile}")
        mask = np.zeros((256, 256), np.uint8)
        mask[20 * tile : 20 * tile + 6, 20:30] = 255
        Image.fromarray(np.where(mask > 0, 10, picture).astype(np.uint8)).save(
            root / f"test/crack/{tile}.jpg"
        )
        Image.fromarray(mask).save(root / f"ground_truth/crack/{tile}_mask.png")
        rows.append(f"crack,{tile},h{tile}")
    rows.append("crack,0x,h0")  # another exposure of the first one: never opened
    (root / "approx_groups.csv").write_text("\n".join(rows) + "\n")
    return root


# -- sets --


def test_one_exposure_of_each_tile_and_whole_defects(tiles):
    data = tiles.parent
    assert learning_sets.first_of_each_group(tiles, "good")[:2] == ["0a", "1a"]
    train, test = learning_sets.load_goods(data, "tile")
    assert (len(train.images), len(test.images)) == (5 * 4, 3 * 4)
    assert tuple(train.images.shape[1:]) == (1, 64, 64)
    images, masks = learning_sets.defect_pictures(data, TILE, "crack")
    assert len(images) == len(masks) == 8
    assert [int((np.array(mask) > 0).sum()) for mask in masks] == [60] * 8


def test_the_first_pairs_by_name_are_learned_and_the_others_are_the_test(tiles):
    train, test = learning_sets.load_defects(tiles.parent, "magnetic_tile/crack")
    assert (len(train.images), len(test.images)) == (5, 3)
    whole, _ = learning_sets.defect_pictures(tiles.parent, TILE, "crack")
    assert torch.equal(train.images[0, 0], torch.from_numpy(np.array(whole[0])))
    again, _ = learning_sets.load_defects(tiles.parent, "magnetic_tile/crack")
    assert again.digest == train.digest


def test_one_defect_of_each_circuit(tmp_path):
    """They have no list of groups: a file is named for its circuit and the place on it."""
    part = tmp_path / "deeppcb_20085"
    for folder, names in {"train/good": "ab", "test/good": "c", "test/open": ""}.items():
        (part / folder).mkdir(parents=True)
        for name in names:
            Image.new("L", (256, 256), 255).save(part / folder / f"{name}.png")
    (part / "ground_truth/open").mkdir(parents=True)
    for index, name in enumerate(["d_5", "d_7", *(f"{k}_0" for k in "efghij")]):
        Image.new("L", (256, 256), 30 * index).save(part / f"test/open/{name}.png")
        mask = Image.new("L", (256, 256))
        mask.paste(255, (100, 100, 104, 104))
        mask.save(part / f"ground_truth/open/{name}_mask.png")
    with pytest.warns(defectgen.DataWarning, match="repeat"):
        goods = learning_sets.load_goods(tmp_path, "circuit")
    assert [len(some.images) for some in goods] == [2 * 4, 4]
    train, test = learning_sets.load_defects(tmp_path, "deeppcb_20085/open")
    assert [int(image.max()) for image in train.images] == [0, 60, 90, 120, 150]
    assert [int(image.max()) for image in test.images] == [180, 210]


@pytest.mark.parametrize(
    ("box", "starts"),
    [
        ((100, 100, 110, 104), (range(52, 95), range(46, 95))),
        ((0, 250, 4, 256), (range(1), range(192, 193))),
    ],
    ids=["anywhere", "corner"],
)
def test_windows_hold_the_defect_with_a_margin(box, starts):
    draw = random.Random(0)
    mask = Image.new("L", (256, 256))
    mask.paste(255, box)
    found = [learning_sets.window_around(mask, draw) for _ in range(400)]
    assert {x for x, *_ in found} == set(starts[0])
    assert {y for _, y, *_ in found} == set(starts[1])
    assert all((right - left, low - top) == (64, 64) for left, top, right, low in found)


def test_a_window_of_a_large_defect_shows_its_edge():
    mask = Image.new("L", (256, 256))
    mask.paste(255, (60, 60, 200, 200))
    draw = random.Random(0)
    shares = [
        (np.array(mask.crop(learning_sets.window_around(mask, draw))) > 0).mean() for _ in range(50)
    ]
    assert min(shares) > 0.2
    assert max(shares) < 0.8


# -- bootstrap --


def features(n, shift, seed):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed)) + shift


def difference(real, first, second, *, origins="ab", seed=0):
    one, other = (
        kid_draws(real, fake, origin, seed)
        for fake, origin in zip((first, second), origins, strict=True)
    )
    return interval(one - other)


def test_the_difference_is_that_of_the_two_kernel_distances():
    real, near, far = features(20, 0, 0), features(30, 0.1, 1), features(30, 0.5, 2)
    found, low, high = difference(real, near, far)
    assert found == pytest.approx(kid(real, near).value - kid(real, far).value)
    assert low < found < high < 0
    back, _, _ = difference(real, far, near, origins="ba")
    assert back == pytest.approx(-found)


def test_two_samples_of_one_distribution_do_not_differ():
    real = features(20, 0, 0)
    _, low, high = difference(real, features(40, 0, 1), features(40, 0, 2))
    assert low < 0 < high
    same = features(40, 0.3, 3)
    assert difference(real, same, same, origins="aa") == pytest.approx((0, 0, 0))


def test_the_interval_covers_its_share_of_many_experiments():
    """With the true difference 0, about nine of ten intervals hold it."""
    inside = 0
    for k in range(40):
        real = features(25, 0, 3 * k)
        fakes = (features(25, 0.2, 3 * k + 1), features(25, 0.2, 3 * k + 2))
        _, low, high = difference(real, *fakes, seed=k)
        inside += low <= 0 <= high
    assert inside >= 29


# -- records --


def a_record(n, **more):
    where = {"cpu": "a processor", "instructions": ["avx2", "amx_bf16"]}
    return {"n": n, "commit": "abc", "machine": where, **more}


def test_records_of_two_runs_come_together(tmp_path):
    keys = [("scores", "default", "magnetic_tile/crack", seed) for seed in (0, 1)]
    goods = ("goods", "dfmgan-time", "tile", 10)
    one = Records({keys[0]: a_record(0)}, {keys[0]: {"whole good twins": torch.arange(3.0)}})
    one.write_into(tmp_path)
    two = Records({keys[1]: a_record(1), goods: a_record(2)}, {keys[1]: {"x": torch.ones(3)}})
    two.write_into(tmp_path)
    found = Records.read(tmp_path)
    assert found.found == {**one.found, **two.found}
    assert found.seeds(*keys[0][:3]) == [0, 1]
    assert found.names("goods", "dfmgan-time", ["bottle", "tile"]) == ["tile"]
    assert torch.equal(found.draws[keys[0]]["whole good twins"], torch.arange(3.0))
    assert torch.equal(found.draws[keys[1]]["x"], torch.ones(3))
    assert found.origins() == ["3 records of commit abc on a processor (amx_bf16)"]
    assert Records.read(tmp_path / "nothing").found == {}


def test_a_record_of_an_older_benchmark_is_refused(tmp_path):
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(ValueError, match="must tell its commit.*remove the file"):
        Records().take(("goods", "default", "tile", 0), tmp_path / "old.json")


NAME = "magnetic_tile/crack"


def scores_for(records, label, seed, shift, backbone="x", data="the test"):
    """A record whose generated images have these draws: even ones around a value, from a seed."""
    key = ("scores", label, NAME, seed)
    records.found[key] = a_record(0, settings={"backbone": backbone, "data": data})
    source = torch.Generator().manual_seed(seed + 10 * int(label == "dfmgan"))
    draws = torch.cat([torch.zeros(1), torch.randn(1000, generator=source)])
    records.draws[key] = {"whole generated": draws + shift}


def test_a_comparison_takes_the_mean_over_common_seeds():
    records = Records()
    for seed, shift in ((0, 0.0), (1, 10.0), (2, 1000.0)):
        scores_for(records, "default", seed, shift)
    for seed, shift in ((0, 100.0), (1, 130.0), (3, -1000.0)):
        scores_for(records, "dfmgan", seed, shift)
    shown = learning_table.difference(records, "default", "dfmgan", NAME, "whole")
    value, low, high = (float(part) for part in shown.strip(")").replace("(", "to ").split("to "))
    assert value == -110
    # Two independent differences of two, averaged: a standard deviation of 1.
    assert (low, high) == pytest.approx((-111.6, -108.4), abs=0.7)
    assert learning_table.difference(records, "default", "tenth", NAME, "whole") == ""


def test_a_comparison_marks_other_backbones_and_refuses_other_test_images():
    records = Records()
    scores_for(records, "default", 0, 0.0)
    scores_for(records, "dfmgan", 0, 50.0, backbone="y")
    shown = learning_table.difference(records, "default", "dfmgan", NAME, "whole")
    assert shown.startswith("-50* (")
    scores_for(records, "dfmgan", 0, 50.0, data="others")
    with pytest.raises(ValueError, match="the same test images"):
        learning_table.difference(records, "default", "dfmgan", NAME, "whole")


# -- all of it --


@pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning")
@pytest.mark.filterwarnings("ignore::defectgen.errors.DataWarning")
def test_a_short_run_is_kept_and_goes_on(tiles, tiny, tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setattr(learning_fits, "SAMPLES", 12)
    monkeypatch.setattr("benchmarks.learning_scores.SAMPLES", 12)
    short = {"kimg": 0.016, "batch_size": 4}
    monkeypatch.setitem(learning_fits.RECIPES, "default", learning_fits.Recipe(**short))
    narrow = {"channel_base": 256, "channel_max": 16}
    for label, more, like in (("default", {}, None), ("plain", {"preset": "dfmgan"}, "default")):
        recipe = learning_backbones.BackboneRecipe({**short, **more}, narrow, like)
        monkeypatch.setitem(learning_backbones.BACKBONES, label, recipe)
    monkeypatch.setattr(learning_backbones, "PROBE", 0.016)
    monkeypatch.setattr(learning_backbones, "SAMPLES", 12)
    given = ["--data", tiles.parent, "--cache", tmp_path / "cache", "--seeds", 0]
    given += ["--threads", torch.get_num_threads()]  # which is of the process, not of the run
    given += ["--sets", "magnetic_tile/crack", "--recipes", "default", "on-photos"]
    given += ["--backbones", "default", "plain"]
    given += ["--parts", "scores", "--results", tmp_path / "results"]
    monkeypatch.setattr(sys, "argv", ["learning.py", *map(str, given)])
    learning.main()
    first = json.loads((tmp_path / "results/records.json").read_text())
    record = first["scores/default/magnetic_tile/crack/0"]
    assert {"generated", "copy-paste", "good twins"} <= set(record["scores"]["kid@lite0"])
    assert record["time"]["minutes"] > 0
    placed = first["scores/on-photos/magnetic_tile/crack/0"]
    assert placed["settings"]["good_images_digest"].startswith("sha256:")
    assert placed["settings"]["model"] == record["settings"]["model"]
    assert placed["time"] == record["time"]
    assert "good_images_digest" not in record["settings"]
    (fit,) = (tmp_path / "cache" / "fits" / "default").glob("*-sheet.png")
    assert fit.is_file()
    goods = first["goods/plain/tile/0"]
    assert goods["kimg"] > 0
    assert 0 < goods["time"]["processor_minutes"] < 1
    assert 0 < goods["direction, samples"] < 1
    assert Records.read(tmp_path / "results").draws["scores", "default", "magnetic_tile/crack", 0]
    shutil.rmtree(tmp_path / "cache")  # as on another machine: nothing is measured again
    learning.main()
    assert json.loads((tmp_path / "results/records.json").read_text()) == first
    assert not (tmp_path / "cache").exists()
    assert "magnetic_tile/crack" in capsys.readouterr().out
    shown = [*given, "--table", "--recipes", "default", "dfmgan", "--seeds", 0, 1]
    monkeypatch.setattr(sys, "argv", ["learning.py", *map(str, shown)])
    learning.main()  # what was not measured is left out, and not measured now
    assert json.loads((tmp_path / "results/records.json").read_text()) == first

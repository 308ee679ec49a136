"""The zoo's commands, on made-up photos in the layout of MVTec AD."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from defectgen import experiment, zoo
from defectgen.cli import main
from defectgen.errors import ConfigError, ImageError, WeightsError
from defectgen.experiment_settings import Settings
from defectgen.registry import ZOO_FILE, PublishedBranch, use_zoo, write_record, zoo_record

pytestmark = [
    pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning"),
    pytest.mark.filterwarnings("ignore::defectgen.errors.DataWarning"),
]


@pytest.fixture
def mvtec(tmp_path):
    """Two categories: eight goods and seven photos of one defect each."""
    source = np.random.default_rng(0)

    def picture(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.integers(90, 160, (32, 32, 3), dtype=np.uint8)).save(path)

    for category, defect in (("bottle", "broken_large"), ("wood", "hole")):
        home = tmp_path / "mvtec" / category
        for index in range(8):
            picture(home / f"train/good/{index:03d}.png")
        picture(home / "test/good/000.png")
        for index in range(7):
            picture(home / f"test/{defect}/{index:03d}.png")
            mask = np.zeros((32, 32), np.uint8)
            mask[8:16, 4 + index : 16] = 255
            path = home / f"ground_truth/{defect}/{index:03d}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    return tmp_path / "mvtec"


@pytest.fixture
def small(tiny, monkeypatch):
    monkeypatch.setattr(experiment, "PROBE_KIMG", 0.016)
    monkeypatch.setattr(experiment, "SAMPLES", 8)


def run(*words):
    return main([str(word) for word in words])


SHORT = ("--resolution", 32, "--kimg", 0.016, "--defect-kimg", 0.016, "--device", "cpu")


def test_show_tells_what_the_demo_is():
    assert list(zoo.show_lines("demo")) == [
        "demo: the shipped hazelnut backbone: Backbone.from_pretrained('demo')"
    ]


def test_photos_of_another_product_are_refused_before_training():
    record = zoo_record("mvtec/cable")
    zoo.check_types(record, record.defects[:2])
    with pytest.raises(ConfigError, match="mvtec/cable only; got broken_large; check"):
        zoo.check_types(record, ["broken_large", record.defects[0]])


def test_list_and_show_say_what_is_published(capsys):
    assert run("zoo", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 28
    assert sum("not published yet" in line for line in lines) == 27
    assert run("zoo", "show", "mvtec/metal_nut") == 0
    shown = capsys.readouterr().out
    assert "bent, color, flip, scratch" in shown
    assert "not published yet; defectgen zoo train mvtec/metal_nut --data PATH" in shown


def test_published_entries_say_where_they_are(tmp_path):
    sums = "sha256:" + "b" * 64
    branch = PublishedBranch("acme/wood-hole", "c" * 40, sums)
    record = zoo_record("mvtec/wood").published_as("a" * 40, sums, branches={"hole": branch})
    path = tmp_path / "zoo.json"
    path.write_bytes(ZOO_FILE.read_bytes())
    with use_zoo(path):
        write_record(record)
        lines = {line.split()[0]: line for line in zoo.list_lines()}
        shown = list(zoo.show_lines(record.name))
    assert lines[record.name].endswith(f"{record.repo_id}, 1 of 5 branches")
    assert lines["mvtec/tile"].endswith("not published yet")
    assert f"{record.name}: {record.repo_id} at {'a' * 40}, {sums}" in shown
    assert f"mvtec/wood/hole: acme/wood-hole at {'c' * 40}, {sums}" in shown
    assert "mvtec/wood/scratch: not published yet" in shown


def test_all_categories_of_a_folder_are_trained_once(small, mvtec, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    words = ("zoo", "train", "--all", "--data", mvtec, "--out", out, *SHORT)
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert "about" in printed.err
    assert "min on this machine" in printed.err
    summary = (out / "summary.md").read_text()
    assert summary in printed.out
    assert [line.split("|")[1].strip() for line in summary.splitlines()[2:]] == [
        "mvtec/bottle",
        "mvtec/wood",
    ]
    report = json.loads((out / "mvtec/bottle/report.json").read_text())
    assert report["defects"]["broken_large"]["learned"] == 5
    config = json.loads((out / "mvtec/wood/backbone/config.json").read_text())["config"]
    assert config["augment"]["policy"]["flip_y"] is True  # as the entry says

    monkeypatch.setattr(experiment.Experiment, "_fit_backbone", None)
    monkeypatch.setattr(experiment.Experiment, "_fit_branch", None)
    assert run(*words) == 0  # nothing is trained again


def test_the_folder_of_the_category_itself_will_do(mvtec):
    record = zoo_record("mvtec/wood")
    renamed = (mvtec / "wood").rename(mvtec.parent / "planks")
    photos = zoo.photos_of(record, renamed)
    assert len(photos.train_good) == 8
    assert list(photos.defects) == ["hole"]


def test_ranks_share_the_categories(mvtec, tmp_path, monkeypatch):
    seen = []

    class Seen:
        def __init__(self, name, *args, **kwargs):
            seen.append((name, kwargs["settings"].resolution))

        def run(self):
            pass

    monkeypatch.setattr(zoo, "Experiment", Seen)
    names = ["mvtec/bottle", "mvtec/wood"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        zoo.train(names, mvtec, tmp_path / "out", Settings())
    assert seen == [("mvtec/wood", 256), ("mvtec/bottle", 256)]


@pytest.mark.slow  # two processes that import torch, and train networks of the published widths
def test_torchrun_trains_the_categories_side_by_side(mvtec, tmp_path):
    out = tmp_path / "out"
    words = ["zoo", "train", "--all", "--data", mvtec, "--out", out, *SHORT]
    script = tmp_path / "few_samples.py"
    script.write_text(
        "from defectgen import cli, experiment\n"
        "experiment.SAMPLES = 8\n"
        "raise SystemExit(cli.main())\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [str(word) for word in (*launch, script, *words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    for name in ("mvtec/bottle", "mvtec/wood"):
        assert done.stderr.count(f"{name}: backbone of") == 1  # by one of the two, once
        assert json.loads((out / name / "report.json").read_text())["name"] == name


@pytest.mark.parametrize(
    ("code", "words", "message"),
    [
        (1, "show mvtec/bottel", "name: must be of the zoo"),
        (2, "train mvtec/bottle --data nowhere", "data: must be an existing folder"),
        (2, "train --all --data .", "data: must hold folders named as categories"),
        (1, "list --zoo none.json", "No such file .*; check the path, or copy it anew"),
    ],
)
def test_what_is_missing_is_one_sentence(code, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("zoo", *words.split()) == code
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--data", "."),
        ("train", "mvtec/bottle"),
        ("train", "mvtec/bottle", "--all", "--data", "."),
        ("train", "mvtec/bottle", "--data", ".", "--license", "other"),
        ("show",),
        ("list", "mvtec/bottle"),
        (),
    ],
)
def test_wrong_arguments_of_an_action(words, capsys):
    with pytest.raises(SystemExit) as left:
        run("zoo", *words)
    assert left.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_errors_of_python_are_those_of_the_command(mvtec, tmp_path):
    with pytest.raises(WeightsError, match="got 'mvtec/none'"):
        zoo.train(["mvtec/none"], mvtec, tmp_path / "out", Settings())
    with pytest.raises(ImageError):
        zoo.train(["mvtec/cable"], mvtec / "bottle" / "train", tmp_path / "out", Settings())
    with pytest.raises(ConfigError, match="data: must hold folders"):
        zoo.names_for(tmp_path)

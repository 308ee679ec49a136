"""The scripts under examples/, on made-up data and for one iteration each."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest

import defectgen
from defectgen.data.example import example_folders

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


def test_train_demo_writes_the_backbone_with_all_that_is_known(script, call, tmp_path, monkeypatch):
    demo = script("train_demo")
    example = dataclasses.replace(example_folders(), backbone=tmp_path / "backbone")
    monkeypatch.setattr(demo, "example_folders", lambda: example)
    call(demo, "--kimg", 0.016, "--work", tmp_path / "work")
    config = json.loads((example.backbone / "config.json").read_text())["config"]
    assert config["minutes"] >= 0
    assert {"seed", "kimg"} <= set(config["training"])
    assert config["data"]["digest"].startswith("sha256:")
    assert "swd_generated" in config["scores"]


def test_train_segmentation_trains_on_photos_and_samples(script, call, monkeypatch, capsys):
    training = script("train_segmentation")
    monkeypatch.setattr(training, "TRAININGS", 2)
    call(training, "--kimg", 0.016, "--steps", 2, "--workers", 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["real", "real + synthetic"]
    assert all("on 11 unseen photos: 0." in line for line in lines)
    assert [line.count(",") for line in lines] == [1, 1]
    import torch

    scores = torch.tensor([3.0, 2.0, 1.0, 0.0])
    found = training.average_precision(scores, torch.tensor([True, False, True, False]))
    assert found == pytest.approx((1 + 2 / 3) / 2)

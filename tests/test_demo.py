"""The demo on a tiny stand-in for the shipped backbone, and once on the shipped one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from defectgen import Backbone, ConfigError
from defectgen import demo as module
from defectgen.cli import main
from defectgen.data.example import ExampleFolders
from defectgen.data.images import load_images, load_pairs
from defectgen.demo import demo
from defectgen.demo_report import TITLE, DemoResult, report
from defectgen.demo_speed import measure_speed
from defectgen.errors import TrainingWarning
from defectgen.ops._dispatch import mode
from defectgen.scores import PROTOCOLS
from defectgen.training import defect_start

# Two iterations teach no mask, and the alarm says so.
pytestmark = pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning")
SPEED = {
    "native": 1.0,
    "bf16": 0.0,
    "sampling": 2.0,
    "sampling, plain": 3.0,
    "training": 40.0,
    "training, plain": 50.0,
}
#: As many as the contact sheet shows.
SAMPLES = 16
PARTS = {"images", "masks", "normals", "metadata.jsonl", "contact_sheet.png", "report.md"}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """An example of the same form as the shipped one: 32 px, a backbone of two iterations."""
    root = tmp_path_factory.mktemp("example")
    folders = ExampleFolders(*(root / n for n in ("good", "defect", "mask", "backbone")))
    random = np.random.default_rng(0)
    for folder in (folders.good, folders.defects, folders.masks):
        folder.mkdir()
    for index in range(4):
        good = random.integers(60, 180, (32, 32, 3), dtype=np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        mask[8:18, 6 + index : 20] = 255
        defect = np.where(mask[..., None] > 0, np.uint8(255), good)
        Image.fromarray(good).save(folders.good / f"{index}.png")
        Image.fromarray(defect).save(folders.defects / f"{index}.png")
        Image.fromarray(mask).save(folders.masks / f"{index}.png")
    tiny = {"kimg": 0.016, "batch_size": 8, "seed": 0, "verbose": 0, "device": "cpu"}
    Backbone(32, augment="none", **tiny).fit(folders.good).save_pretrained(folders.backbone)
    return folders


@pytest.fixture
def example(stand_in, monkeypatch):
    monkeypatch.setattr(module, "example_folders", lambda: stand_in)
    monkeypatch.setattr(module, "measure_speed", lambda synth, pairs: dict(SPEED))
    monkeypatch.setattr(module, "DEMO_SAMPLES", SAMPLES)
    monkeypatch.setattr(defect_start, "START_CANDIDATES", 32)
    return stand_in


def test_the_demo_trains_a_branch_on_the_shipped_backbone_and_writes_everything(
    example, tmp_path, monkeypatch
):
    out, shown, draw = tmp_path / "a" / "demo", [], module.contact_sheet

    def kept(rows, path, columns):
        shown.extend(rows)
        draw(rows, path, columns=columns)

    monkeypatch.setattr(module, "contact_sheet", kept)
    result = demo(out, kimg=0.016, seed=3)
    assert {p.name for p in out.iterdir()} == PARTS
    for part in ("images", "masks", "normals"):
        assert len(list((out / part).iterdir())) == SAMPLES
    assert [p.name for p in out.parent.iterdir()] == ["demo"]
    assert result.kimg == pytest.approx(0.016)
    assert set(result.scores) <= set(PROTOCOLS)
    first = json.loads((out / "metadata.jsonl").read_text().splitlines()[0])
    assert first["seed"] == 3
    shipped = Backbone.from_pretrained(example.backbone, device="cpu")
    assert first["backbone_digest"] == shipped.digest()
    text = (out / "report.md").read_text()
    assert "A defect branch was trained from nothing for 0.02 kimg" in text
    assert f"| area_real | {result.scores['area_real']:.4g} |" in text
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width >= 8 * 96
    placed = shown[-1].images
    assert "on good photos" in shown[-2].caption
    assert len(placed) == 8
    photos = load_images(example.good, resolution=32, channels=3).images
    same = ((placed * 255).round()[:, None] == photos[None]).float().mean((2, 3, 4)).amax(1)
    assert (same > 0.5).all()
    assert (same < 1).all()


def test_the_demo_replaces_an_earlier_one(example, tmp_path):
    out = tmp_path / "demo"
    (out / "images").mkdir(parents=True)
    (out / "images" / "000099.png").write_bytes(b"old")
    (out / "report.md").write_text(f"{TITLE}\n\nold\n")
    demo(out, kimg=0.016)
    assert not (out / "images" / "000099.png").exists()
    assert "trained from nothing" in (out / "report.md").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize(
    "content",
    [
        {"mine.txt": ""},
        {"report.md": "# my report\n"},
        {"report.md": TITLE, "mine.txt": ""},
        {"report.md": TITLE, "images/report.md": ""},
    ],
    ids=["foreign file", "foreign report", "report and foreign file", "report and foreign picture"],
)
def test_the_demo_replaces_nothing_of_others(example, tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="out: a folder with content is replaced only if"):
        demo(tmp_path, kimg=0.016)
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == set(content)


def test_a_file_in_place_of_the_folder_is_refused(example, tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ConfigError, match="out: must name a folder; got the file"):
        demo(tmp_path / "x", kimg=0.016)


def test_a_failure_leaves_the_earlier_demo(example, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "report.md").write_text(f"{TITLE}\n\nold\n")

    def full(*arguments, **names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "contact_sheet", full)
    with pytest.raises(OSError, match="No space"):
        demo(out, kimg=0.016)
    # Neither is the training lost.
    assert {p.name for p in tmp_path.iterdir()} == {"demo", "demo.run"}
    assert (out / "report.md").read_text() == f"{TITLE}\n\nold\n"


def test_ctrl_c_keeps_the_run_and_the_same_command_goes_on(example, tmp_path, monkeypatch, capsys):
    from defectgen.training import callbacks

    whole = demo(tmp_path / "whole", kimg=0.032, seed=1)
    command = ["demo", "--out", str(tmp_path / "x"), "--kimg", "0.032", "--seed", "1"]

    def interrupt(self, state):
        if state.iteration == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.MaskMonitor, "on_tick", interrupt)
        assert main(command) == 130
    assert "x.run holds the run; give the same command again" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert main(command) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "x"}
    pictures = [sorted((tmp_path / name / "images").iterdir()) for name in ("whole", "x")]
    assert [a.read_bytes() for a in pictures[0]] == [b.read_bytes() for b in pictures[1]]
    text = (tmp_path / "x" / "report.md").read_text()
    assert "| train on from where it was stopped |" in text
    assert f"| {whole.scores['area_generated']:.4g} |" in text


@pytest.mark.parametrize("bad", [{"kimg": 0.0}, {"kimg": float("nan")}, {"seed": -1}])
def test_bad_numbers_are_refused_before_anything_is_loaded(tmp_path, bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        demo(tmp_path / "x", **bad)


@pytest.fixture
def result():
    scores = dict.fromkeys(PROTOCOLS, 0.5)
    del scores["change_iou"]
    return DemoResult(
        folder=Path("out"),
        kimg=2.0,
        scores=scores,
        seconds={"train": 60.0, "sample": 1.5},
        speed=dict(SPEED),
        photos=17,
    )


def test_the_report_has_protocols_scores_durations_and_attribution(result):
    text = report(result, 64, 5)
    for name, protocol in PROTOCOLS.items():
        assert f"- **{name}**: {protocol}." in text
    assert "64 pairs were drawn" in text
    assert "on 17 photos with masks" in text
    assert "the real halves have 8 images" in text
    assert "| swd_real | 0.5 |" in text
    assert "| change_iou | undefined |" in text
    assert "| train | 60.0 |" in text
    assert "| all | 61.5 |" in text
    assert "CC BY 4.0" in text
    assert "2.00 kimg" in text
    assert text.startswith(f"{TITLE}\n")


def test_the_command_on_the_shipped_backbone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "DEMO_SAMPLES", SAMPLES)
    monkeypatch.setattr(module, "measure_speed", lambda synth, pairs: dict(SPEED))
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--kimg", "0.064"]) == 0
    captured = capsys.readouterr()
    assert str(out) in captured.out
    assert re.search(r"^\| swd_generated \| [\d.e+]+ \|$", captured.out, re.M)
    # The bar is shown even though this is no terminal.
    assert "kimg" in captured.err
    assert {p.name for p in out.iterdir()} == PARTS


def test_the_speed_is_measured_both_ways(fitted_synth, defects):
    pairs = load_pairs(*defects(6), resolution=32, channels=3)
    branch = fitted_synth.branch_
    before = {name: value.clone() for name, value in branch.state_dict().items()}
    found = measure_speed(fitted_synth, pairs)
    assert set(found) == set(SPEED)
    assert all(value > 0 for name, value in found.items() if name not in ("native", "bf16"))
    # Another mode than before would make every later figure of the process a lie.
    assert mode() == "auto"
    assert all(torch.equal(value, before[k]) for k, value in branch.state_dict().items())


def test_the_report_says_by_how_much_it_is_faster(result):
    text = report(result, 64, 5)
    assert "| sampling | 2.00 | 3.00 | 1.50 |" in text
    assert "| training | 40.00 | 50.00 | 1.25 |" in text
    assert "\nThis demo: native kernels, float32." in text


def test_a_run_that_cannot_be_removed_costs_a_warning(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path / "sheet.png"))

    monkeypatch.setattr(module.shutil, "rmtree", refuse)
    with pytest.warns(TrainingWarning, match="^out: its run .* got Permission denied at '.*sheet"):
        module._remove_run(tmp_path)

"""One product from photos to report: what is written, what goes on, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from defectgen import experiment
from defectgen.errors import ImageError
from defectgen.experiment import Experiment, Photos, Settings
from defectgen.experiment_report import cost_line, report_text, slug, summary_text

SHORT = Settings(
    resolution=32, kimg=0.032, defect_kimg=0.032, precision="fp32", seed=1, device="cpu", verbose=0
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning"),
    pytest.mark.filterwarnings("ignore::defectgen.errors.DataWarning"),
]


def photos(*counts):
    """Grey squares; defects named "a b", "c d" and so on are dark spots on them."""
    source = torch.Generator().manual_seed(0)

    def goods(count):
        return torch.rand(count, 3, 32, 32, generator=source) * 0.2 + 0.4

    defects = {}
    for name, count in zip(("thin scratch", "dent"), counts, strict=False):
        masks = torch.zeros(count, 1, 32, 32)
        masks[:, :, 8:16, 10:20] = 1
        defects[name] = goods(count) * (1 - masks), masks.bool()
    return Photos(goods(12), defects)


@pytest.fixture
def small(tiny, monkeypatch):
    """Short probes and few samples on tiny networks."""
    monkeypatch.setattr(experiment, "PROBE_KIMG", 0.016)
    monkeypatch.setattr(experiment, "SAMPLES", 8)


def test_everything_is_made_once_and_goes_on(small, tmp_path, monkeypatch):
    folder = tmp_path / "mvtec" / "part"
    made = Experiment("mvtec/part", photos(8, 3), folder, augment=("flip_x",), settings=SHORT)
    fitted = []
    fit = Experiment._fit_branch

    def stopped(self, backbone, defect, kimg, run_dir):
        if run_dir:
            raise KeyboardInterrupt
        return fit(self, backbone, defect, kimg, run_dir)

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "_fit_branch", stopped)
        with pytest.raises(KeyboardInterrupt):
            made.run()
    assert (folder / "backbone" / "config.json").is_file()
    cost = (folder / "cost.json").read_bytes()

    again = Experiment("mvtec/part", photos(8, 3), folder, augment=("flip_x",), settings=SHORT)
    monkeypatch.setattr(Experiment, "_fit_backbone", lambda *_: fitted.append("backbone"))
    report = again.run()
    assert fitted == []
    assert (folder / "cost.json").read_bytes() == cost
    assert report["left_out"] == {"dent": 3}
    found = report["defects"]["thin scratch"]
    assert (found["learned"], found["test"]) == (5, 3)
    assert found["scores"]["area_ratio"]["generated"] > 0
    assert json.loads((folder / "report.json").read_text()) == report
    text = (folder / "README.md").read_text()
    assert "pictures.png" in text
    assert "## thin scratch" in text
    assert "dent (3)" in text
    assert (folder / "pictures.png").read_bytes()[:4] == b"\x89PNG"
    config = json.loads((folder / "backbone" / "config.json").read_text())["config"]
    assert config["augment"]["policy"]["flip_x"] is True
    assert config["augment"]["policy"]["rot90"] is False
    monkeypatch.setattr(Experiment, "_fit_branch", lambda *_: fitted.append("branch"))
    assert again.run() == report
    assert fitted == []


def test_the_cost_follows_from_budgets_and_the_speed_of_short_fits(small, tmp_path, monkeypatch):
    made = Experiment("part", photos(8, 7), tmp_path / "x", settings=replace(SHORT, kimg=None))
    monkeypatch.setattr(experiment, "_timed", lambda fit: (fit(), 2.0))
    cost = made.estimate()
    assert cost["kimg"] == {"backbone": 36.0, "branch": 0.032}
    assert cost["minutes"] == pytest.approx((2 * 36 + 2 * 0.032 * 2) / 0.016)
    assert cost["gigabytes"] > 0.05
    line = cost_line("part", cost)
    assert "36 kimg and 2 branches of 0.032 kimg; about 4508 min" in line
    assert "memory unknown" in cost_line("part", {**cost, "gigabytes": None})


def test_too_few_pairs_of_every_defect_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"data: at least one .* got \{'thin scratch': 5\}"):
        Experiment("part", photos(5), tmp_path / "x", settings=SHORT)
    assert not (tmp_path / "x").exists()


def test_the_summary_has_a_line_for_each_defect():
    found = {"learned": 5, "test": 3, "table": "", "scores": {"change_iou": {"generated": 0.8125}}}
    report = {
        "name": "mvtec/part", "goods": 12, "left_out": {},
        "settings": {"resolution": 64, "seed": 0},
        "defects": {"dent": found, "thin scratch": {**found, "learned": 6}},
    }  # fmt: skip
    lines = summary_text([report, {**report, "name": "visa/other"}]).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2] == "| mvtec/part | dent | 5 |  |  | 0.812 |  |"
    assert lines[5].startswith("| visa/other | thin scratch | 6 |")
    assert "at 64 px" in report_text(report)


def test_names_of_folders():
    assert slug("color spot similar to the object") == "color_spot_similar_to_the_object"
    assert slug("../a") == "a"

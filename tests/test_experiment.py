"""One product from photos to report: what is written, what goes on, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from defectgen import experiment, experiment_cost, losses
from defectgen.errors import ConfigError, ImageError
from defectgen.experiment import Experiment, Photos
from defectgen.experiment_report import cost_line, report_text, summary_text
from defectgen.experiment_settings import Settings
from defectgen.training import callbacks, loop

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
    rows, draw = [], experiment.contact_sheet

    def kept(some, path, columns):
        rows.extend(some)
        draw(some, path, columns=columns)

    monkeypatch.setattr(experiment, "contact_sheet", kept)
    report = again.run()
    captions = [row.caption for row in rows]
    assert captions[:2] == ["good photos", "good samples"]
    kinds = ["real, learned", "real, unseen", "generated", "generated on good photos"]
    assert captions[2:] == [f"thin scratch: {kind}" for kind in kinds]
    placed = (rows[-1].images * 255).round()[:, None]
    same = (placed == again.goods.images[None]).float().mean((2, 3, 4)).amax(1)
    assert ((same > 0.5) & (same < 1)).all()
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


@pytest.mark.slow  # two whole experiments
@pytest.mark.parametrize("stage", ["kimg", "defect_kimg"])
def test_a_fit_that_dies_goes_on_where_it_was(small, tmp_path, monkeypatch, stage):
    long = replace(SHORT, **{stage: 0.128})
    monkeypatch.setattr(callbacks, "RESUME_TICKS", 1)
    step = {"kimg": "_fit_backbone", "defect_kimg": "_fit_branch"}[stage]
    fit, loss = getattr(Experiment, step), losses.discriminator_logistic
    calls, taken, death = [0], {}, [0]

    def counted(*args):
        calls[0] += 1
        if calls[0] == death[0]:
            raise OSError("power cut")
        return loss(*args)

    def watched(self, *args):
        run_dir = args[-1]
        if run_dir is None:  # what the cost is estimated with
            return fit(self, *args)
        calls[0] = 0
        with monkeypatch.context() as patch:
            patch.setattr(losses, "discriminator_logistic", counted)
            found = fit(self, *args)
        taken[run_dir.parent.name] = calls[0]
        return found

    monkeypatch.setattr(Experiment, step, watched)
    one = {
        name: Experiment("mvtec/part", photos(7), tmp_path / name, settings=long)
        for name in ("whole", "cut")
    }
    one["whole"].run()
    death[0] = taken["whole"] - 1
    with pytest.raises(OSError, match="power cut"):
        one["cut"].run()
    death[0] = 0
    one["cut"].run()
    assert 0 < taken["cut"] < taken["whole"]  # a fit begun anew would take as many
    for name in ("backbone", "thin_scratch"):
        both = [(tmp_path / part / name / "model.safetensors").read_bytes() for part in one]
        assert both[0] == both[1]


def test_the_cost_is_that_of_the_backbone_and_of_each_branch(small, tmp_path, monkeypatch):
    made = Experiment("part", photos(8, 7), tmp_path / "x", settings=replace(SHORT, kimg=None))
    asked = []

    def seconds(state, phases, batch):
        asked.append((state.config.kimg, {phase.name for phase in phases}, len(batch.images)))
        return 600.0 if batch.masks is None else 60.0

    monkeypatch.setattr(experiment_cost, "run_seconds", seconds)
    cost = made.estimate()
    assert cost["kimg"] == {"backbone": 1.2, "branch": 0.032}  # that of a texture
    assert cost["minutes"] == pytest.approx(10 + 2 * 1)
    assert cost["gigabytes"] > 0.05
    assert [kimg for kimg, _, _ in asked] == [1.2, 0.032]
    assert all({"R1", "reconstruction", "G", "D"} <= names for _, names, _ in asked)
    line = cost_line("part", cost)
    assert "1.2 kimg and 2 branches of 0.032 kimg; about 12 min" in line
    assert "memory unknown" in cost_line("part", {**cost, "gigabytes": None})


def test_seconds_of_a_step_count_as_often_as_the_loop_takes_it(small, tmp_path, monkeypatch):
    """Lazy terms once in their interval: each step takes a second by a clock of our own."""
    made = Experiment("part", photos(8), tmp_path / "x", settings=replace(SHORT, kimg=0.8))
    probe, clock, taken = made._fit_backbone(0.016, None), [0.0], Counter()
    step, found = experiment_cost._step, []

    def timed(state, phase, batch):
        clock[0] += 1
        taken[phase.name] += 1
        return step(state, phase, batch)

    def whole(state, phases, batch):
        found.append(seconds(state, phases, batch))
        assert state.ada.p == 0.5  # images are warped while the clock runs
        assert set(taken.values()) == {2}  # once before the clock starts
        taken.clear()
        loop.run(state, lambda _: batch, phases, tick_images=800)
        return found[0]

    seconds = experiment_cost.run_seconds
    monkeypatch.setattr(experiment_cost, "_step", timed)
    monkeypatch.setattr(loop, "_step", timed)
    monkeypatch.setattr(experiment_cost, "run_seconds", whole)
    monkeypatch.setattr(experiment_cost.time, "perf_counter", lambda: clock[0])
    experiment_cost.backbone_cost(probe, made.goods, 0.8, 0)
    assert taken["R1"] == 4  # one iteration in 16
    assert taken["D"] == 50  # all: of a texture nothing is reconstructed before
    assert found == [sum(taken.values())]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"kimg": 0.048}, "kimg"), ({"seed": 2}, "seed"), ({"defect_kimg": None}, "defect_kimg")],
)
def test_other_settings_are_refused_and_change_nothing(tmp_path, monkeypatch, change, field):
    folder = begun(tmp_path, monkeypatch)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    other = Experiment("part", photos(8), folder, settings=replace(SHORT, **change))
    with pytest.raises(ConfigError, match=f"^{field}: must be as when the experiment") as error:
        other.run()
    assert "or another folder" in str(error.value)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_other_photos_operations_and_products_are_refused(tmp_path, monkeypatch):
    folder = begun(tmp_path, monkeypatch)
    others = {
        "photos": Experiment("part", photos(9), folder, settings=SHORT),
        "augment": Experiment("part", photos(8), folder, augment=("flip_x",), settings=SHORT),
        "name": Experiment("mvtec/part", photos(8), folder, settings=SHORT),
    }
    for field, other in others.items():
        with pytest.raises(ConfigError, match=f"^{field}: must be as when"):
            other.run()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kimg": -1}, "kimg"),
        ({"kimg": float("nan")}, "kimg"),
        ({"defect_kimg": 0}, "defect_kimg"),
        ({"seed": -1}, "seed"),
        ({"samples": 2}, "samples"),
        ({"precision": "fp8"}, "precision"),
        ({"resolution": 48}, "resolution"),
    ],
)
def test_values_are_checked_before_anything_is_written_or_trained(change, words):
    with pytest.raises(ConfigError, match=f"^{words}: "):
        replace(SHORT, **change)


def test_scores_of_other_weights_are_made_again(small, tmp_path):
    folder = tmp_path / "x"
    Experiment("part", photos(8), folder, settings=SHORT).run()
    path = folder / "thin_scratch.json"
    right = path.read_bytes()
    old = json.loads(right)
    old["settings"]["model"], old["table"] = "sha256:old", "old"
    path.write_text(json.dumps(old))
    again = Experiment("part", photos(8), folder, settings=SHORT)
    assert again.run()["defects"]["thin scratch"]["table"] != "old"
    assert path.read_bytes() == right
    path.write_text("{}")
    with pytest.raises(ConfigError, match="^folder: must hold the thin_scratch.json"):
        again.run()


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", "[" * 200000])
@pytest.mark.parametrize("name", ["settings.json", "cost.json"])
def test_damaged_files_are_one_sentence(tmp_path, monkeypatch, name, text):
    folder = begun(tmp_path, monkeypatch)
    (folder / name).write_bytes(text.encode("latin-1"))
    words = "restore it, or give" if name == "settings.json" else "remove it: it is made again"
    with pytest.raises(ConfigError, match=f"^folder: must hold the {name} of .*; {words}"):
        Experiment("part", photos(8), folder, settings=SHORT).run()


@pytest.mark.parametrize(
    "name", ["cost.json", "backbone", "thin_scratch-run", "thin_scratch.json", "dent"]
)
def test_results_without_their_settings_are_not_taken_over(tmp_path, monkeypatch, name):
    folder = begun(tmp_path, monkeypatch)
    (folder / "settings.json").unlink()
    (folder / "notes.txt").write_text("of the user")
    again = Experiment("part", photos(8, 2), folder, settings=SHORT)
    (folder / name).mkdir()
    with pytest.raises(ConfigError, match=f"^folder: must hold settings.json .* with {name} but"):
        again.run()
    assert not (folder / "settings.json").exists()
    (folder / name).rmdir()
    with pytest.raises(KeyboardInterrupt):  # nothing there but what is the user's
        again.run()


def test_the_cost_is_that_of_this_machine(small, tmp_path, monkeypatch):
    made, asked = Experiment("part", photos(8), tmp_path, settings=SHORT), []
    cost = {"kimg": {"backbone": 1, "branch": 1}, "branches": 1, "minutes": 1, "gigabytes": None}
    monkeypatch.setattr(made, "estimate", lambda: asked.append(1) or cost)
    assert made.cost() == made.cost()
    assert len(asked) == 1
    monkeypatch.setattr(experiment, "machine", lambda device: "another")
    assert made.cost() == {**cost, "machine": "another"}
    assert len(asked) == 2


def test_device_and_verbosity_may_differ(tmp_path, monkeypatch):
    folder = begun(tmp_path, monkeypatch)
    free = replace(SHORT, device=None, verbose=1)
    with pytest.raises(KeyboardInterrupt):
        Experiment("part", photos(8), folder, settings=free).run()


def begun(tmp_path, monkeypatch):
    """Folder of an experiment that was stopped before anything was trained."""

    def stopped(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Experiment, "estimate", stopped)
    folder = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        Experiment("part", photos(8), folder, settings=SHORT).run()
    assert json.loads((folder / "settings.json").read_text())["resolution"] == 32
    return folder


def test_the_resolution_that_nobody_named_is_256(tmp_path):
    made = Experiment("part", photos(8), tmp_path, settings=replace(SHORT, resolution=None))
    assert (made.record()["resolution"], made.record()["samples"]) == (256, 200)
    assert made.goods.images.shape[-1] == 256


def test_too_few_pairs_of_every_defect_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"data: at least one .* got \{'thin scratch': 6\}"):
        Experiment("part", photos(6), tmp_path / "x", settings=SHORT)
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
    table = "| score |\n| x |\n\n- **x**: what it is.\n\nSettings: seed 0."
    report["defects"] = {name: {**found, "table": table} for name in ("dent", "thin scratch")}
    text = report_text(report)
    assert "at 64 px" in text
    assert text.count("| x |\n\nSettings: seed 0.\n\n") == 2
    assert text.count("- **x**: what it is.") == 1  # said once for all tables

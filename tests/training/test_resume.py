"""A run that is killed and continued ends like one that was never disturbed, to the last bit."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import defectgen
from defectgen.training.callbacks import RunFolder
from defectgen.weights import load_resume, save_resume

SCRIPT = Path(__file__).with_name("run_to_kill.py")
pytestmark = pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning")
KILLED_AFTER = 11  # iterations; the resume files are of iterations 3, 6 and 9


@pytest.fixture(scope="module")
def script():
    """The script as a module, with its changes in force until the end of the tests."""
    spec = importlib.util.spec_from_file_location("run_to_kill", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        module.make_busy(patch.setattr)
        yield module


@pytest.fixture(scope="module")
def whole(script, tmp_path_factory):
    """whole(kind, backbone folder): a run that nothing disturbed, and its folder; made once."""
    made = {}

    def run(kind, backbone=None):
        if kind not in made:
            folder = tmp_path_factory.mktemp("whole") / kind
            made[kind] = script.fit(kind, folder, backbone, resume=False), folder
        return made[kind]

    return run


@pytest.fixture
def killed(tmp_path):
    """killed(kind, *more arguments): the run folder of a run that died by SIGKILL."""

    def run(kind, *more):
        folder = tmp_path / "killed"
        root = str(Path(defectgen.__file__).parents[1])
        words = [sys.executable, "-W", "ignore", SCRIPT, kind, folder, KILLED_AFTER, *more]
        done = subprocess.run(
            [str(word) for word in words],
            env={**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True, text=True, timeout=55, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        return folder

    return run


def of_run(folder):
    return load_resume(folder / "resume.pt")["state"]


def check_that_it_matters(state, modules, script):
    """What the run left before it died has everything in motion that could be lost."""
    assert state["counters"]["iteration"] == 9
    assert state["counters"]["iteration"] > script.WARM + 2 * script.BUSY["r1_interval"]
    assert state["ada"]["p"] > 0
    assert state["ada"]["p"] != script.FIRST_P
    assert float(state["path_mean"]) > 0
    assert len(state["history"]) == 9
    steps = {k: o["state"][0]["step"] for k, o in state["optimizers"].items() if o["state"]}
    assert {"G", "D"} <= set(steps)
    # Main steps alone would be one per iteration; the lazy terms have stepped as well.
    assert all(float(steps[name]) > 9 - script.WARM for name in ("G", "D"))
    assert set(state["modules"]) == modules


@pytest.mark.parametrize("kind", ["backbone", "synthesizer"])
def test_killed_and_resumed_is_bit_identical(
    kind, script, killed, whole, fitted_backbone, assert_same, tmp_path
):
    backbone = None
    if kind == "synthesizer":
        backbone = tmp_path / "backbone"
        fitted_backbone.save_pretrained(backbone)
    folder = killed(kind, *([backbone] if backbone else []))
    left = of_run(folder)
    trained = {
        "backbone": {"generator", "discriminator", "codes"},
        "synthesizer": {"branch", "discriminator", "matching", "object codes"},
    }
    check_that_it_matters(left, trained[kind], script)
    undisturbed, itself = whole(kind, backbone)
    resumed = script.fit(kind, folder, backbone, resume=True)
    final = of_run(itself)
    assert final["counters"]["iteration"] == script.ITERATIONS
    # Weights, averages, optimizers, p, path mean, random numbers, counters, history: all of it.
    assert_same(of_run(folder), final)
    with pytest.raises(AssertionError):  # and the end is not what the resume file held already
        assert_same(left["modules"], final["modules"])
    assert resumed.history_ == undisturbed.history_
    assert torch.equal(resumed.sample(3, seed=1), undisturbed.sample(3, seed=1))
    histories = [(f / "history.jsonl").read_text() for f in (folder, itself)]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("kind", ["backbone", "synthesizer"])
def test_finished_run_resumed_is_left_as_it_is(kind, script, whole, fitted_backbone, tmp_path):
    backbone = tmp_path / "backbone"
    fitted_backbone.save_pretrained(backbone)
    first, itself = whole(kind, backbone)
    folder = shutil.copytree(itself, tmp_path / "run")
    again = script.fit(kind, folder, backbone, resume=True)
    assert again.history_ == first.history_
    assert torch.equal(again.sample(3, seed=1), first.sample(3, seed=1))
    assert again.config_ == first.config_


def interrupted_at_nine(script, folder):
    """A run of the backbone stopped by Ctrl-C after nine iterations."""

    def stop(self, state):
        if state.iteration == 9:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "on_iteration", stop)
        with pytest.raises(KeyboardInterrupt):
            script.fit("backbone", folder, None, resume=False)


def test_interrupted_and_resumed_is_bit_identical(script, whole, assert_same, tmp_path):
    interrupted_at_nine(script, tmp_path / "cut")
    assert of_run(tmp_path / "cut")["counters"]["iteration"] == 9
    script.fit("backbone", tmp_path / "cut", None, resume=True)
    assert_same(of_run(tmp_path / "cut"), of_run(whole("backbone")[1]))


def forget(state, what):
    """Put one thing back to where a new run begins."""
    if what == "p":
        state["ada"]["p"] = 0.0
    elif what == "path mean":
        state["path_mean"].zero_()
    elif what == "optimizer":
        state["optimizers"]["G"]["state"] = {}
    elif what == "random numbers":
        state["generator"] = torch.Generator().manual_seed(0).get_state()
    elif what == "average":
        state["averages"]["generator"] = state["modules"]["generator"]
    elif what == "counter":
        state["counters"]["iteration"] = 0


FORGOTTEN = ("p", "path mean", "optimizer", "random numbers", "average", "counter")


def test_whatever_a_resume_forgot_would_be_seen(script, whole, assert_same, tmp_path, monkeypatch):
    """The original restores weights only (spec 2.8, 9); each thing it drops changes the end."""
    # The averages at the end, not those of a best snapshot from before the interruption.
    monkeypatch.setattr("defectgen.training.loop._due", lambda *_: False)
    script.fit("backbone", tmp_path / "whole", None, resume=False)
    final = of_run(tmp_path / "whole")["averages"]
    interrupted_at_nine(script, tmp_path / "cut")
    unseen = []
    for what in ("nothing", *FORGOTTEN):
        payload = load_resume(tmp_path / "cut" / "resume.pt")
        forget(payload["state"], what)
        folder = tmp_path / what
        folder.mkdir()
        save_resume(folder / "resume.pt", payload)
        script.fit("backbone", folder, None, resume=True)
        try:
            assert_same(of_run(folder)["averages"], final)
        except AssertionError:
            continue
        unseen.append(what)
    assert unseen == ["nothing"]

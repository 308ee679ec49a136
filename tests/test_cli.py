"""The command line: every command once on tiny networks, and how it fails."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from data_trees import mask, mvtec, photo, spot
from PIL import Image

import defectgen
from defectgen.cli import main
from defectgen.errors import ConfigError, DataWarning
from defectgen.locks import held

ROOT = Path(defectgen.__file__).parents[1]
TINY = ["--kimg", "0.032", "--batch-size", "8", "--verbose", "0", "--device", "cpu"]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders of 4 good photos, 4 defect photos and their masks, 32 px."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for part in ("good", "scratch", "masks"):
        (root / part).mkdir()
    for index in range(4):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:18, 6 + index : 20] = 255
        good = random.integers(60, 180, (32, 32, 3), dtype=np.uint8)
        defect = good.copy()
        defect[mask > 0] = 255
        for part, pixels in (("good", good), ("scratch", defect), ("masks", mask)):
            Image.fromarray(pixels).save(root / part / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def models(photos, tmp_path_factory):
    """Backbone and synthesizer, trained for four iterations by the command itself."""
    root = tmp_path_factory.mktemp("models")
    backbone, synth = root / "product", root / "scratch"
    good = ("train-backbone", photos / "good", "--out", backbone, "--resolution", 32, "--seed", 1)
    assert run(*good, "--augment", "safe", *TINY) == 0
    fit = ("fit", backbone, photos / "scratch", photos / "masks", "--out", synth, "--seed", 2)
    assert run(*fit, "--first-resolution", 16, *TINY) == 0
    return root


# -- training --------------------------------------------------------------------------------------


def test_training_commands_pass_their_options_on(models):
    config = json.loads((models / "product" / "config.json").read_text())["config"]
    assert config["training"] | {"kimg": 0.032, "batch_size": 8, "seed": 1} == config["training"]
    assert config["backbone"]["resolution"] == 32
    assert config["augment"]["reason"] == "augment='safe'"
    fitted = json.loads((models / "scratch" / "config.json").read_text())
    training = fitted["config"]["training"]
    assert training | {"kimg": 0.032, "batch_size": 8, "seed": 2} == training
    assert fitted["config"]["defect"]["first_resolution"] == 16
    assert fitted["backbone"]["included"] is False


def test_the_run_lies_beside_the_output(models):
    for name in ("product", "scratch"):
        assert (models / f"{name}.run" / "resume.pt").is_file()
        assert (models / f"{name}.run" / "history.jsonl").is_file()


@pytest.mark.slow  # bfloat16 takes a minute on a processor that has none
def test_warm_start_and_include_backbone(photos, models, tmp_path, capsys):
    out = tmp_path / "more"
    fit = ("fit", models / "product", photos / "scratch", photos / "masks", "--out", out)
    warm = ("--warm-start", models / "scratch", "--include-backbone", "--seed", 3)
    assert run(*fit, *warm, "--precision", "bf16", *TINY) == 0
    saved = json.loads((out / "config.json").read_text())
    assert saved["config"]["training"]["precision"] == "bf16"
    assert saved["config"]["continued_from_kimg"] == pytest.approx(0.032)
    assert saved["config"]["trained_kimg"] == pytest.approx(0.064)
    assert saved["backbone"]["included"] is True
    assert str(out) in capsys.readouterr().out


def test_warm_start_on_another_backbone_is_refused(photos, models, tmp_path, capsys):
    other = tmp_path / "other"
    good = ("train-backbone", photos / "good", "--out", other, "--resolution", 32, "--seed", 9)
    assert run(*good, "--augment", "none", *TINY) == 0
    fit = ("fit", other, photos / "scratch", photos / "masks", "--out", tmp_path / "x")
    assert run(*fit, "--warm-start", models / "scratch", *TINY) == 2
    assert "--warm-start: a branch of the same backbone" in capsys.readouterr().err


def test_an_output_that_cannot_be_replaced_stops_before_training(photos, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert run("train-backbone", photos / "good", "--out", tmp_path, *TINY) == 2
    error = capsys.readouterr().err
    assert "--out: a folder with content is replaced only if" in error
    assert "mine.txt" in error
    assert len(error.strip().splitlines()) == 1


def test_an_output_that_cannot_be_written_stops_before_training(photos, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out, run_dir in (("file/x", "r"), ("x", "file"), ("x", "file/r")):
        places = ("--out", tmp_path / out, "--run-dir", tmp_path / run_dir)
        assert run("train-backbone", photos / "good", *places, *TINY) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"defectgen: {'--out' if out == 'file/x' else 'run_dir'}: must ")
        assert len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_run_within_the_output_is_refused(photos, tmp_path, capsys):
    for run_dir in (tmp_path / "x", tmp_path / "x" / "run"):
        places = ("--out", tmp_path / "x", "--run-dir", run_dir)
        assert run("train-backbone", photos / "good", *places, *TINY) == 2
        assert "--run-dir: must lie outside of --out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_cannot_be_saved_is_not_lost(photos, tmp_path, capsys, monkeypatch):
    def full(self, folder):
        raise OSError(28, "No space left on device")

    good = ("train-backbone", photos / "good", "--resolution", 32, "--augment", "none", *TINY)
    with monkeypatch.context() as patch:
        patch.setattr(defectgen.Backbone, "save_pretrained", full)
        assert run(*good, "--out", tmp_path / "x") == 1
    error = capsys.readouterr().err
    said = f"No space left on device; free some space; {tmp_path / 'x.run'} holds the run up to"
    assert said in error
    more = ("--run-dir", tmp_path / "x.run", "--resume", "--out", tmp_path / "y")
    assert run(*good, *more) == 0
    assert (tmp_path / "y" / "config.json").is_file()


def test_a_run_under_way_is_left_alone(photos, tmp_path, capsys):
    (tmp_path / "x.run").mkdir()
    (tmp_path / "x.run" / "resume.pt").write_bytes(b"hours of work")
    with held(tmp_path / "x.run", "x"):
        assert run("train-backbone", photos / "good", "--out", tmp_path / "x", *TINY) == 2
    said = capsys.readouterr().err
    assert "--run-dir: a folder that no other run is using" in said
    assert "remove" not in said


def test_an_unsaved_run_is_not_overwritten(photos, tmp_path, capsys):
    (tmp_path / "x.run").mkdir()
    (tmp_path / "x.run" / "resume.pt").write_bytes(b"hours of work")
    assert run("train-backbone", photos / "good", "--out", tmp_path / "x", *TINY) == 2
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "x.run" / "resume.pt").read_bytes() == b"hours of work"


def test_an_unsaved_run_newer_than_the_weights_is_not_overwritten(photos, models, capsys):
    resume = models / "product.run" / "resume.pt"
    content, times = resume.read_bytes(), resume.stat()
    again = ("train-backbone", photos / "good", "--out", models / "product", *TINY)
    try:
        config = (models / "product" / "config.json").stat()
        os.utime(resume, (config.st_atime + 1, config.st_mtime + 1))
        assert run(*again) == 2
        assert "never saved" in capsys.readouterr().err
        assert resume.read_bytes() == content
    finally:
        os.utime(resume, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_saved_run_is_replaced_by_the_same_command(photos, tmp_path):
    command = ("train-backbone", photos / "good", "--out", tmp_path / "x", "--resolution", 32)
    for _ in range(2):
        assert run(*command, "--augment", "none", *TINY) == 0


def test_ctrl_c_leaves_a_run_that_resume_finishes(photos, tmp_path, capsys, monkeypatch):
    from defectgen.training import callbacks

    out = tmp_path / "x"
    command = ("train-backbone", photos / "good", "--out", out, "--resolution", 32, *TINY)
    command += ("--augment", "none")

    def interrupt(self, state):
        if state.iteration == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.MaskMonitor, "on_tick", interrupt)
        assert run(*command) == 130
    error = capsys.readouterr().err
    assert "--resume" in error
    assert str(tmp_path / "x.run") in error
    assert "Traceback" not in error
    assert not out.exists()
    assert run(*command, "--resume") == 0
    history = (tmp_path / "x.run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in history] == [1, 2, 3, 4]


# -- photos to train from --------------------------------------------------------------------------


@pytest.fixture
def given(monkeypatch):
    """What the classes are given to learn from, instead of learning it."""
    seen = {}

    def backbone(self, good_images, resume=False):
        seen["good"] = good_images
        return self

    def synthesizer(self, defect_imgs, masks, resume=False):
        seen["pairs"] = defect_imgs, masks
        return self

    for kind, fit in ((defectgen.Backbone, backbone), (defectgen.DefectSynthesizer, synthesizer)):
        monkeypatch.setattr(kind, "fit", fit)
        monkeypatch.setattr(kind, "save_pretrained", lambda self, out, **more: None)
    return seen


def names(values):
    return [Path(str(value)).name for value in values]


def test_training_takes_folders_as_before(photos, models, tmp_path, given):
    assert run("train-backbone", photos / "good", "--out", tmp_path / "a") == 0
    assert given["good"] == sorted((photos / "good").iterdir())
    fit = ("fit", models / "product", photos / "scratch")
    out = ("--out", tmp_path / "b")
    for words in ((photos / "masks", *out), (*out, photos / "masks")):  # behind an option, too
        given.clear()
        assert run(*fit, *words) == 0
        assert given["pairs"] == (
            sorted((photos / "scratch").iterdir()),
            sorted((photos / "masks").iterdir()),
        )


def test_one_word_too_many_is_wrong_usage(capsys):
    for words in (("a", "b", "--out", "x", "c", "d"), ("a", "b", "c", "--out", "x", "d")):
        with pytest.raises(SystemExit) as stop:
            run("fit", *words)
        assert stop.value.code == 2
        assert "unrecognized arguments" in capsys.readouterr().err


def test_training_takes_data_sets(models, tmp_path, given, capsys):
    mvtec(tmp_path, "bottle")
    mvtec(tmp_path, "cable")
    good = ("train-backbone", tmp_path, "--out", tmp_path / "out")
    fit = ("fit", models / "product", tmp_path, "--out", tmp_path / "out")
    for command, place in ((good, "GOOD_IMAGES"), (fit, "DEFECT_IMGS")):
        assert run(*command) == 2
        assert capsys.readouterr().err == (
            f"defectgen: --category: must name one of several in {str(tmp_path)!r}; got none; "
            "choose bottle, cable\n"
        )
        assert run(*command, "--category", "x") == 1
        error = capsys.readouterr().err
        assert f"--category: must be the name of a folder in {place}; got 'x'" in error
        assert f"name one of these or check {place}" in error
    assert run(*good, "--category", "cable", "--layout", "mvtec") == 0
    assert names(given["good"]) == ["000.png", "001.png", "002.png"]
    assert run(*fit, "--category", "cable") == 2
    assert "--defect: must name one of several types in" in capsys.readouterr().err
    assert run(*fit, "--category", "cable", "--defect", "dent") == 0
    assert [path.parent.name for path in given["pairs"][0]] == ["dent", "dent"]


@pytest.mark.filterwarnings("default::defectgen.errors.DataWarning")
def test_oblong_and_bad_photos_on_the_command_line(models, tmp_path, given, capsys):
    photo(tmp_path / "p" / "0.png", 0, (40, 60))
    mask(tmp_path / "m" / "0_Label.PNG", spot((40, 60)))
    good = ("train-backbone", tmp_path / "p", "--out", tmp_path / "out")
    fit = ("fit", models / "product", tmp_path / "p", tmp_path / "m", "--out", tmp_path / "out")
    for command in (good, fit):
        assert run(*command) == 1
        error = capsys.readouterr().err
        assert "cut windows, or give --square pad or --square crop" in error
        assert "; repair them, or give --drop-bad:\n" in error
        assert run(*command, "--square", "pad") == 0
    assert [value.size() for value in (*given["good"], *given["pairs"][1])] == [(60, 60)] * 2
    (tmp_path / "p" / "1.png").write_bytes(b"broken")
    for command in (good, fit):
        assert run(*command, "--square", "pad") == 1
        assert "1.png: " in capsys.readouterr().err
        assert run(*command, "--square", "pad", "--drop-bad") == 0
        assert "1 errors, whose files were left out" in capsys.readouterr().err
    assert (names(given["good"]), names(given["pairs"][0])) == (["0.png"], ["0.png"])


def test_photos_that_are_not_there_are_one_sentence(photos, models, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    assert run("train-backbone", tmp_path / "x", *out) == 1
    fit = ("fit", models / "product")
    for words in ((tmp_path / "x",), (photos / "good",), (photos / "good", tmp_path / "x")):
        assert run(*fit, *words, *out) == 1
    pair = (photos / "scratch", photos / "masks")
    assert run(*fit, *pair, "--layout", "visa", *out) == 2
    assert run(*fit, *pair, "--split", "1cls", *out) == 2
    lines = capsys.readouterr().err.splitlines()
    starts = (
        "GOOD_IMAGES: must name a folder; got ",
        "DEFECT_IMGS: must name a folder; got ",
        "MASKS: must be given where none lie beside the images; got none for ",
        "MASKS: must name a folder of masks or annotations, or a COCO file (.json); got ",
        "--layout: belongs to a data set; got 'visa' with ",
        "--split: belongs to a data set; got '1cls' with ",
    )
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(f"defectgen: {start}")


def test_folders_named_like_an_argument_keep_their_names(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("defect", "masks", "path"):
        photo(tmp_path / name / "0.png", 0, (40, 60))
        assert run("train-backbone", name, "--out", "out") == 1
        error = capsys.readouterr().err
        assert error.startswith(f"defectgen: {name}: all must be usable; got 1 bad of 1; ")


def test_a_data_set_without_a_folder_of_good_images(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    assert run("train-backbone", tmp_path / "photos", "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "call it good, normal, ok, normals, or give that folder itself" in error


@pytest.mark.filterwarnings("ignore::defectgen.errors.DataWarning")
def test_data_sets_are_trained_from(tmp_path):
    home = mvtec(tmp_path)
    good = ("train-backbone", home, "--out", tmp_path / "b", "--resolution", 32, "--seed", 1)
    assert run(*good, "--augment", "none", *TINY) == 0
    fit = ("fit", tmp_path / "b", home, "--defect", "crack", "--out", tmp_path / "s", "--seed", 2)
    assert run(*fit, "--first-resolution", 16, *TINY) == 0
    assert (tmp_path / "s" / "config.json").is_file()


# -- use -------------------------------------------------------------------------------------------


def test_sample_writes_pairs_that_do_not_depend_on_the_batch_size(models, tmp_path, capsys):
    command = ("sample", models / "scratch", "-n", 5, "--seed", 7, "--device", "cpu")
    assert run(*command, "--out", tmp_path / "a", "--normals", "--batch-size", 2) == 0
    assert "5 samples from seed 7" in capsys.readouterr().out
    assert run(*command, "--out", tmp_path / "b", "--truncation-psi", 0.5) == 0
    for folder, parts in (("a", {"images", "masks", "normals"}), ("b", {"images", "masks"})):
        assert {p.name for p in (tmp_path / folder).iterdir()} == parts | {"metadata.jsonl"}
        assert len(list((tmp_path / folder / "images").iterdir())) == 5
    lines = [json.loads(x) for x in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [7, 8, 9, 10, 11]
    saved = json.loads((models / "scratch" / "config.json").read_text())
    assert {line["model_digest"] for line in lines} == {saved["digest"]}
    assert {line["backbone_digest"] for line in lines} == {saved["backbone"]["digest"]}
    assert {line["truncation_psi"] for line in lines} == {1.0}


def test_sample_records_the_precision_it_computed_in(models, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    for precision, computed in (("fp32", "fp32"), ("auto", "bf16")):
        out = tmp_path / precision
        words = ("-n", 2, "--seed", 0, "--out", out, "--precision", precision)
        assert run("sample", models / "scratch", *words) == 0
        line = json.loads((out / "metadata.jsonl").read_text().splitlines()[0])
        assert line["precision"] == computed


def test_sample_without_a_seed_says_which_it_drew(models, tmp_path, capsys):
    assert run("sample", models / "scratch", "-n", 1, "--out", tmp_path / "a") == 0
    said = capsys.readouterr().out
    line = json.loads((tmp_path / "a" / "metadata.jsonl").read_text())
    assert f"from seed {line['seed']}:" in said


def test_info_names_kind_digest_parameters_and_every_number(models, capsys):
    assert run("info", models / "scratch") == 0
    lines = capsys.readouterr().out.splitlines()
    saved = json.loads((models / "scratch" / "config.json").read_text())
    assert lines[0] == "kind: synthesizer"
    assert f"digest: {saved['digest']}" in lines
    assert f"backbone.digest: {saved['backbone']['digest']}" in lines
    assert "training.kimg: 0.032" in lines
    assert f"data.digest: {saved['config']['data']['digest']}" in lines
    assert any(line.startswith("parameters.branch: ") for line in lines)
    assert run("info", models / "product") == 0
    assert capsys.readouterr().out.startswith("kind: backbone\n")


def test_info_says_whether_a_branch_has_its_backbone(models, tmp_path, capsys):
    for name in ("product", "scratch"):
        shutil.copytree(models / name, tmp_path / name)
    config = tmp_path / "scratch" / "config.json"
    told = json.loads(config.read_text())
    assert not told["backbone"]["included"]

    def found():
        assert run("info", tmp_path / "scratch") == 0
        lines = capsys.readouterr().out.splitlines()
        return [line.partition(": ")[2] for line in lines if line.startswith("backbone.found")]

    assert found() == [str(models / "product")]
    told["backbone"]["source"] = str(tmp_path / "moved" / "product")
    config.write_text(json.dumps(told))
    assert found() == [str(tmp_path / "product")]
    other = tmp_path / "product" / "config.json"
    other.write_text(other.read_text().replace(told["backbone"]["digest"], "sha256:" + 64 * "0"))
    assert found()[0].startswith("no; backbone: the one this branch was trained on (sha256:")
    shutil.rmtree(tmp_path / "product")
    assert found()[0].startswith("no; backbone: the branch in ")
    told["backbone"] = {"included": False}
    config.write_text(json.dumps(told))
    assert "no; " in found()[0]


def test_info_counts_parameters(models, capsys):
    backbone = defectgen.Backbone.from_pretrained(models / "product", device="cpu")
    count = sum(value.numel() for value in backbone.generator.state_dict().values())
    run("info", models / "product")
    assert f"parameters.generator: {count:,}" in capsys.readouterr().out.splitlines()


def test_kernels_says_mode_state_and_reason(workshop, monkeypatch, capsys):
    monkeypatch.setenv("CXX", str(workshop / "gone"))
    assert run("kernels") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mode: auto"
    assert lines[1].startswith("cpu: unavailable; compiler: ")
    assert lines[2].startswith("cuda: ")
    assert lines[-1] == f"cache: {workshop / 'cache' / 'kernels'}"


def test_kernels_build_compiles_what_can_exist(workshop, monkeypatch, capsys):
    from defectgen.ops import _build, _recipe

    def write(kind, name, fresh, flags, tools):
        (fresh / _build._file(kind)).write_bytes(b"machine code")

    monkeypatch.setattr(_build, "_compile", write)
    monkeypatch.setattr(_build, "find", lambda kind: Tools())
    monkeypatch.setattr(_recipe.torch.version, "cuda", None)
    assert run("kernels", "build") == 0
    captured = capsys.readouterr()
    assert "compiling those for cpu" in captured.err
    lines = captured.out.splitlines()
    assert "cpu: built; ready to be loaded" in lines
    assert "cuda: unavailable; this PyTorch has no CUDA" in lines
    assert run("kernels", "build") == 0
    assert "compiling" not in capsys.readouterr().err
    assert run("kernels", "build", "--force") == 0
    assert "compiling" in capsys.readouterr().err


class Tools:
    name = "fake 1.0"

    def takes(self, flag):
        return True


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "", "[]", '{"kind": 3}', '{"kind": "backbone"}'])
def test_info_refuses_what_is_no_weights_folder_in_one_sentence(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert run("info", tmp_path) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("defectgen: ")
    assert len(captured.err.strip().splitlines()) == 1


def test_kernels_that_cannot_be_built_are_exit_code_1(workshop, monkeypatch, capsys):
    monkeypatch.setenv("CXX", str(workshop / "gone"))
    assert run("kernels", "build") == 1
    captured = capsys.readouterr()
    assert "cpu: unavailable" in captured.out
    assert captured.err.startswith("defectgen: compiler: ")
    assert len(captured.err.strip().splitlines()) == 1


def test_force_without_build_is_refused(workshop, capsys):
    assert run("kernels", "--force") == 2
    assert "--force: belongs to 'build'" in capsys.readouterr().err


def test_sampling_into_a_full_folder_is_refused(models, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert run("sample", models / "scratch", "-n", 1, "--out", tmp_path) == 2
    assert "--out: must be new or empty" in capsys.readouterr().err


def test_an_empty_folder_is_filled_whatever_its_parent_allows(models, tmp_path, monkeypatch):
    """As what is mounted into a container."""
    make, out = Path.mkdir, tmp_path / "out"
    out.mkdir()

    def kept(path, *rest, **more):
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        make(path, *rest, **more)

    monkeypatch.setattr(Path, "mkdir", kept)
    assert run("sample", models / "scratch", "-n", 1, "--out", tmp_path / "new") == 2
    monkeypatch.setattr(Path, "mkdir", lambda p, *a, **k: None if p == out else kept(p, *a, **k))
    assert run("sample", models / "scratch", "-n", 1, "--out", out) == 0
    assert (out / "metadata.jsonl").is_file()


def test_a_full_disk_while_sampling_says_what_is_left(models, tmp_path, capsys, monkeypatch):
    import defectgen.writer as module

    def full(pixels, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_save", full)
    assert run("sample", models / "scratch", "-n", 1, "--out", tmp_path / "x") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "No space left on device; free some space; " in line
    assert f"{tmp_path / 'x'} holds a set that is not complete" in line


@pytest.mark.parametrize(
    ("more", "said"),
    [(("-n", 0), "-n: must be an integer of at least 1"), (("-n", 1, "--format", "mvtec",
      "--defect", ""), "defect: must be letters")],
    ids=str,
)  # fmt: skip
def test_a_set_of_nothing_or_without_a_name_is_refused(models, tmp_path, capsys, more, said):
    assert run("sample", models / "scratch", "--out", tmp_path / "x", *more) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["Good", "crack ", " crack", "NUL", "com1", "COM¹", "con", "prn", "aux", "lpt9"]
)
def test_a_name_that_some_systems_cannot_have_is_refused(models, tmp_path, capsys, name):
    command = ("sample", models / "scratch", "-n", 1, "--out", tmp_path / "x")
    assert run(*command, "--format", "mvtec", "--defect", name) == 2
    assert "defect: must be letters" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_name_of_a_defect_belongs_to_mvtec(models, tmp_path, capsys):
    command = ("sample", models / "scratch", "-n", 1, "--out", tmp_path / "x", "--defect", "crack")
    assert run(*command) == 2
    assert "--defect: belongs to --format mvtec" in capsys.readouterr().err
    assert run(*command, "--format", "mvtec") == 0
    assert (tmp_path / "x" / "test" / "crack" / "000000.png").is_file()


def test_ctrl_c_while_sampling_says_what_is_left(models, tmp_path, capsys, monkeypatch):
    import defectgen.writer as module

    save, count = module._save, iter(range(9))

    def stopped(pixels, path):
        if next(count) == 3:
            raise KeyboardInterrupt
        save(pixels, path)

    monkeypatch.setattr(module, "_save", stopped)
    command = ("sample", models / "scratch", "-n", 4, "--out", tmp_path / "x", "--seed", 1)
    assert run(*command) == 130
    assert f"{tmp_path / 'x'} holds a set that is not complete" in capsys.readouterr().err
    assert not (tmp_path / "x" / "metadata.jsonl").exists()


def test_ctrl_c_before_sampling_says_nothing_of_what_was_there(tmp_path, capsys, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(defectgen.DefectSynthesizer, "from_pretrained", stopped)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "mine.png").write_text("mine")
    assert run("sample", "models/x", "-n", 4, "--out", tmp_path / "a") == 130
    assert "nothing was kept" in capsys.readouterr().err
    assert run("sample", "models/x", "-n", 4, "--out", tmp_path / "b") == 2
    assert "must be new or empty" in capsys.readouterr().err


def test_ctrl_c_before_anything_is_loaded_is_one_sentence():
    """Also while torch is being imported, which could not be imported again."""
    code = (
        "import sys; from defectgen import cli\n"
        "def stopped(arguments): raise KeyboardInterrupt\n"
        "cli.COMMANDS['fit'] = stopped\n"
        "code = cli.main(['fit', 'b', 'i', 'm', '--out', 'nowhere/x'])\n"
        "sys.exit(code if 'torch' not in sys.modules else 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == (
        "defectgen: interrupted; nothing was kept; give the command again to start anew.\n"
    )


def test_a_broken_pipe_of_another_kind_is_told(monkeypatch, capsys):
    def action():
        raise BrokenPipeError(32, "Broken pipe")

    assert patched(monkeypatch, action) == 1
    said = "defectgen: disk: must do what it is asked for; got Broken pipe; "
    assert capsys.readouterr().err == f"{said}check the disk and the path\n"


def test_windows_calls_a_broken_pipe_an_invalid_argument(monkeypatch):
    from defectgen import cli

    said = [22, "Invalid argument"]

    def refuse(*_, **__):
        raise OSError(*said)

    ended = []
    monkeypatch.setattr("builtins.print", refuse)
    monkeypatch.setattr(cli.os, "dup2", lambda *_: ended.append(1))
    with pytest.raises(OSError, match="Invalid argument"):
        cli._show("x")
    monkeypatch.setattr(cli, "WINDOWS", True)
    cli._show("x")
    assert ended == [1]
    said[:] = [28, "No space left on device"]
    with pytest.raises(OSError, match="No space"):
        cli._show("x")


def test_a_demo_that_the_disk_stops_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    from defectgen import cli

    def refuse(arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(cli.COMMANDS, "demo", refuse)
    (tmp_path / "demo.run" / "2kimg_seed0").mkdir(parents=True)
    (tmp_path / "demo.run" / "2kimg_seed0" / "resume.pt").touch()
    assert run("demo", "--out", tmp_path / "demo") == 1
    assert "holds the run; give the same command again to go on." in capsys.readouterr().err
    shutil.rmtree(tmp_path / "demo.run")  # done: only to tell it failed
    assert run("demo", "--out", tmp_path / "demo") == 1
    assert capsys.readouterr().err.endswith("choose a place that is yours to use\n")


def test_names_that_an_output_has_no_letters_for_are_told_all_the_same(tmp_path):
    photo(tmp_path / "good" / "\u4e00.png", 0, (40, 60))
    done = subprocess.run(
        [sys.executable, "-m", "defectgen", "data", "check", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert done.returncode == 1
    assert b"good/\\u4e00.png: is 60x40" in done.stdout
    assert b"Traceback" not in done.stderr


def test_a_program_without_a_console_has_no_output_to_end(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert patched(monkeypatch, lambda: None) == 0


def test_whoever_has_read_enough_is_told_nothing():
    with subprocess.Popen(
        [sys.executable, "-m", "defectgen", "zoo", "list"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0  # what was asked for was done


@pytest.mark.parametrize(
    "arguments",
    [(), ("dance",), ("sample", "m", "--out", "x"), ("sample", "m", "-n", "many", "--out", "x")],
    ids=str,
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert "usage: defectgen" in capsys.readouterr().err


def test_options_are_taken_by_their_whole_names(capsys):
    for words in (("data", "check", "x", "--cat", "y"), ("zoo", "list", "--zo", "x")):
        with pytest.raises(SystemExit):
            run(*words)
        assert f"unrecognized arguments: {words[-2]} {words[-1]}" in capsys.readouterr().err


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"defectgen {defectgen.__version__}\n"


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "defectgen", "info", "nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("defectgen: folder: ")
    assert "Traceback" not in done.stderr


# -- messages --------------------------------------------------------------------------------------


def patched(monkeypatch, action):
    from defectgen import cli

    monkeypatch.setitem(cli.COMMANDS, "info", lambda arguments: action())
    return run("info", "x")


def test_log_lines_and_warnings_are_one_line_each_on_stderr(monkeypatch, capsys):
    def action():
        logging.getLogger("defectgen").info("defect: %.1f s/kimg", 2.0)
        warnings.warn("images: two are equal", DataWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert patched(monkeypatch, action) == 0
    captured = capsys.readouterr()
    assert captured.err == "defect: 2.0 s/kimg\nwarning: images: two are equal\n"
    assert captured.out == ""


def test_logging_and_warnings_are_as_before_afterwards(monkeypatch):
    logger = logging.getLogger("defectgen")
    before = (list(logger.handlers), logger.level, warnings.showwarning)

    def action():
        raise ConfigError("x")

    assert patched(monkeypatch, action) == 2
    assert (list(logger.handlers), logger.level, warnings.showwarning) == before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left on device; free some space"),
        (OSError(30, "Read-only file system", "a/b"), "Read-only file system at 'a/b'; choose a"),
        (OSError("odd"), "odd; check the disk"),
    ],
    ids=str,
)
def test_what_a_disk_refuses_is_one_sentence(monkeypatch, capsys, error, said):
    def action():
        raise error

    assert patched(monkeypatch, action) == 1
    found = capsys.readouterr().err
    assert found.startswith(f"defectgen: disk: must do what it is asked for; got {said}")
    assert found.count("\n") == 1


def test_a_bug_is_not_hidden(monkeypatch):
    def action():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        patched(monkeypatch, action)


@pytest.mark.filterwarnings("default::defectgen.errors.DataWarning")
def test_evaluate_prints_the_table_and_keeps_it(photos, models, tmp_path, capsys, monkeypatch):
    import defectgen.evaluation as module
    from defectgen import ConfigError

    def missing():
        raise ConfigError("extractor: needs a package; got none; install it")

    monkeypatch.setattr(module, "find_extractor", missing)
    monkeypatch.setattr(module, "st_lpips", missing)
    pairs, file = (photos / "scratch", photos / "masks"), tmp_path / "scores.json"
    words = ("-n", 6, "--seed", 3, "--training", *pairs, "--json", file)
    assert run("evaluate", models / "scratch", *pairs, *words) == 0
    captured = capsys.readouterr()
    assert "| score | real | generated | copy-paste | good twins |" in captured.out
    assert "left out: extractor: needs a package" in captured.err
    assert "\nwarning: real_imgs: defects that were not trained on; got the pairs" in captured.err
    saved = json.loads(file.read_text())
    assert saved["settings"] | {"samples": 6, "seed": 3} == saved["settings"]
    assert saved["scores"]["drift_far"]["copy-paste"] == 0
    assert run("evaluate", models / "scratch", *pairs, "-n", 2) == 2
    assert "n: " in capsys.readouterr().err


@pytest.mark.filterwarnings("default::defectgen.errors.DataWarning")
def test_downstream_prints_the_table_and_keeps_it(photos, models, tmp_path, capsys):
    pairs, file = (photos / "scratch", photos / "masks"), tmp_path / "ap.json"
    needed = ("--training", *pairs, "--test", *pairs, "--goods", photos / "good")
    words = (*needed, "--test-goods", photos / "good", "-n", 2, "--steps", 1, "--repeats", 2)
    assert run("downstream", models / "scratch", *words, "--seed", 3, "--json", file) == 0
    captured = capsys.readouterr()
    assert "| real + generated against real + copy-paste |" in captured.out
    assert "warning: test: defects that were not trained on; got the pairs" in captured.err
    assert "warning: test_goods: photos that serve for nothing else here" in captured.err
    assert "real + copy-paste, seed 1: AP 0." in captured.err
    assert "about 0.0 min left" in captured.err
    saved = json.loads(file.read_text())
    assert saved["settings"] | {"samples": 2, "seed": 3, "steps": 1} == saved["settings"]
    assert len(saved["arms"]["real"]["ap"]) == 2
    assert run("downstream", models / "scratch", *needed) == 2
    assert "defectgen: goods: at least 5, of which every fifth" in capsys.readouterr().err


def test_scores_that_cannot_be_kept_stop_before_the_work(photos, models, capsys, monkeypatch):
    monkeypatch.setattr(defectgen.DefectSynthesizer, "evaluate", None)
    pairs = photos / "scratch", photos / "masks"
    for file, words in ((photos, "must name a file"), ("/dev/null/x", "can be written to")):
        assert run("evaluate", models / "scratch", *pairs, "--json", file) == 2
        error = capsys.readouterr().err
        assert error.startswith("defectgen: --json: ")
        assert words in error

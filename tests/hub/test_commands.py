"""The command line with names of a hub: --revision, info, push."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hub_server import TOKEN
from PIL import Image

from defectgen import Backbone, DefectSynthesizer
from defectgen.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning")


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture
def repos(hub, published):
    """Public repositories of backbone and synthesizer, later ones on top; the good commits."""
    commits = {}
    for name, files in published.items():
        hub.create(name)
        commits[name] = hub.commit(name, files)
        hub.repos[name].refs["v1"] = commits[name]
        hub.commit(name, {"SHA256SUMS": b"spoiled by a later commit\n"})
    return commits


@pytest.fixture
def pairs(defects, tmp_path):
    """Folders of six defect photos and their masks."""
    images, masks = defects(6)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        Image.fromarray(picture).save(tmp_path / f"images/{index}.png")
        Image.fromarray(mask[0].numpy().astype(np.uint8) * 255).save(
            tmp_path / f"masks/{index}.png"
        )
    return tmp_path / "images", tmp_path / "masks"


@pytest.mark.filterwarnings("ignore::defectgen.errors.DataWarning")  # evaluated on what was learned
def test_every_command_takes_a_revision(repos, pairs, tmp_path, capsys, tiny):
    commands = {
        "sample": ("tester/s", "-n", 1, "--out", tmp_path / "a"),
        "evaluate": ("tester/s", *pairs, "-n", 6),
        "info": ("tester/s",),
        "fit": ("tester/base", *pairs, "--out", tmp_path / "b", "--kimg", 0.016, "--verbose", 0),
    }
    for command, words in commands.items():
        assert run(command, *words) == 1, command
        assert "SHA256SUMS must be lines" in capsys.readouterr().err
        assert run(command, *words, "--revision", "v1") == 0, command
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert config["backbone"]["source"] == {
        "repo_id": "tester/base",
        "revision": repos["tester/base"],
    }


def test_a_revision_of_a_folder_is_refused(fitted_backbone, hub, tmp_path, capsys):
    fitted_backbone.save_pretrained(tmp_path / "b")
    assert run("info", tmp_path / "b", "--revision", "v1") == 2
    assert "revision: only for a repository of the hub" in capsys.readouterr().err


def test_info_says_what_a_repository_holds(repos, fitted_synth, fitted_backbone, capsys):
    for name, thing, kind in (
        ("tester/s", fitted_synth, "synthesizer"),
        ("tester/base", fitted_backbone, "backbone"),
    ):
        assert run("info", name, "--revision", repos[name]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"kind: {kind}"
        assert lines[1] == f"repository: {name} at {repos[name]}"
        assert f"data.digest: {thing.config_['data']['digest']}" in lines


def test_info_of_names_of_the_zoo(hub, capsys):
    assert run("info", "demo") == 0
    assert capsys.readouterr().out.startswith("kind: backbone\n")
    assert run("info", "mvtec/bottle") == 1
    assert "not published yet; train it with" in capsys.readouterr().err
    assert hub.log == []


def test_info_refuses_a_repository_of_neither_kind(hub, capsys, cache):
    hub.create("tester/other")
    hub.commit("tester/other", {"config.json": b"{}"})
    assert run("info", "tester/other") == 1
    assert "must hold SHA256SUMS" in capsys.readouterr().err
    assert not list(cache.glob("*/snapshots/*"))


def test_push_of_both_kinds(hub, fitted_backbone, fitted_synth, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for thing, name, words in (
        (fitted_backbone, "tester/b", ()),
        (fitted_synth, "tester/s", ("--no-private", "--training-data", "Plates, drawn.")),
    ):
        folder = tmp_path / name
        thing.save_pretrained(folder)
        assert run("push", folder, name, "--license", "cc-by-4.0", *words) == 0
        printed = capsys.readouterr()
        assert printed.out == f"{name} at {hub.repos[name].refs['main']}\n"
        assert TOKEN not in printed.out + printed.err
        assert hub.files(name)["README.md"].startswith(b'---\nlicense: "cc-by-4.0"\n')
    assert hub.repos["tester/b"].private
    assert not hub.repos["tester/s"].private
    assert b"Plates, drawn." in hub.files("tester/s")["README.md"]
    back = DefectSynthesizer.from_pretrained("tester/s", device="cpu")
    assert back.backbone_.digest() == fitted_backbone.digest()
    assert Backbone.from_pretrained("tester/b", device="cpu").digest() == fitted_backbone.digest()


def test_push_refuses_before_it_sends(hub, tmp_path, capsys):
    for words, said, code in (
        ((tmp_path, "tester/b", "--license", "other"), "config.json", 1),
        ((tmp_path, "b", "--license", "other"), "repo_id: must be 'owner/name'", 2),
        ((tmp_path, "mvtec/bottle", "--license", "other"), "not begin with mvtec/ or visa/", 2),
        ((tmp_path, "tester/b", "--license", "CC BY"), "license: must be an identifier", 2),
    ):
        assert run("push", *words) == code
        assert said in capsys.readouterr().err
    assert hub.log == []


def test_push_needs_a_license_and_takes_no_token(hub, tmp_path, capsys):
    for words in ((), ("--license", "other", "--token", TOKEN)):
        with pytest.raises(SystemExit) as stop:
            run("push", tmp_path, "tester/b", *words)
        assert stop.value.code == 2

"""Published and loaded again: the real client, a hub on loopback."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN
from PIL import Image

import defectgen
from defectgen import Backbone, ConfigError, DefectSynthesizer, NotFittedError, WeightsError
from defectgen.hub import HubSource
from defectgen.metrics.report import Evaluation

NAME = "tester/scratch"
FILES = {".gitattributes", "README.md", "SHA256SUMS", "config.json", "model.safetensors"}
FILES |= {"samples.png"}
INNER = {"backbone/config.json", "backbone/model.safetensors"}


def publish(thing, name=NAME, **options):
    return thing.push_to_hub(name, **{"license": "other", "token": TOKEN, **options})


def load(name=NAME, cls=DefectSynthesizer, **options):
    return cls.from_pretrained(name, **{"device": "cpu", "token": TOKEN, **options})


def assert_same_samples(a, b):
    for one, other in zip(*(s.sample(3, return_masks=True, seed=3) for s in (a, b)), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def published_base(hub, fitted_backbone):
    """A repository of the fitted backbone; the commit."""
    return publish(fitted_backbone, "tester/base", private=False)


@pytest.fixture
def on_hub(hub, published_base, fitted_synth):
    """The fitted synthesizer as if its backbone had been loaded from that repository."""
    synth = copy.copy(fitted_synth)
    synth.backbone_ = load("tester/base", Backbone)
    return synth


# -- round trips ---


def test_a_backbone(hub, fitted_backbone):
    commit = publish(fitted_backbone, "tester/base")
    assert set(hub.files("tester/base")) == FILES
    assert hub.repos["tester/base"].refs["main"] == commit
    assert len(hub.repos["tester/base"].commits) == 2  # the empty one, and one with everything
    back = load("tester/base", Backbone)
    assert back.digest() == fitted_backbone.digest()
    assert back.config_ == fitted_backbone.config_
    assert torch.equal(back.sample(2, seed=1), fitted_backbone.sample(2, seed=1))
    assert back.source_ == HubSource("tester/base", commit)


def test_a_synthesizer_with_its_backbone(hub, fitted_synth):
    publish(fitted_synth)
    assert set(hub.files(NAME)) == FILES | INNER
    back = load()
    assert_same_samples(back, fitted_synth)
    assert back.backbone_.source_ is None


def test_a_downloaded_one_can_be_saved_and_published_again(hub, fitted_synth, tmp_path):
    publish(fitted_synth)
    back = load()
    back.save_pretrained(tmp_path / "s")
    assert_same_samples(DefectSynthesizer.from_pretrained(tmp_path / "s"), fitted_synth)
    publish(back, "tester/again")
    assert_same_samples(load("tester/again"), fitted_synth)


def test_an_adapter_names_repository_and_commit_of_its_backbone(on_hub, hub, published_base):
    publish(on_hub)
    assert set(hub.files(NAME)) == FILES
    config = json.loads(hub.files(NAME)["config.json"])
    assert config["backbone"] == {
        "included": False,
        "source": {"repo_id": "tester/base", "revision": published_base},
        "digest": on_hub.backbone_digest_,
    }
    assert 'base_model: "tester/base"' in hub.files(NAME)["README.md"].decode()
    assert_same_samples(load(), on_hub)


def test_an_adapter_loads_the_pinned_commit_whatever_was_pushed_later(
    on_hub, hub, fitted_backbone, tmp_path
):
    publish(on_hub)
    other = copy.deepcopy(fitted_backbone)
    with torch.no_grad():
        next(other.generator.parameters()).add_(0.5)
    publish(other, "tester/base", private=False)
    assert_same_samples(load(cache_dir=tmp_path / "fresh"), on_hub)


def test_a_folder_of_an_adapter_loads_its_backbone_from_the_hub(on_hub, tmp_path):
    on_hub.save_pretrained(tmp_path / "s")
    assert not (tmp_path / "s" / "backbone").exists()
    assert_same_samples(load(tmp_path / "s"), on_hub)
    on_hub.save_pretrained(tmp_path / "t", include_backbone=True)
    assert (tmp_path / "t" / "backbone").is_dir()


def test_a_published_backbone_that_was_changed_in_memory_is_not_named(on_hub, tmp_path):
    with torch.no_grad():
        on_hub.backbone_.generator.mapping.w_avg.add_(1)
    on_hub.backbone_digest_ = on_hub.backbone_.digest()  # as after a fit on it
    with pytest.raises(ConfigError, match="^include_backbone:"):
        on_hub.save_pretrained(tmp_path / "s", include_backbone=False)
    on_hub.save_pretrained(tmp_path / "s")
    assert (tmp_path / "s" / "backbone").is_dir()


def test_a_branch_is_refused_on_another_backbone_of_the_hub(on_hub, hub, fitted_backbone, cache):
    other = copy.deepcopy(fitted_backbone)
    with torch.no_grad():
        next(other.generator.parameters()).add_(0.5)
    commit = publish(other, "tester/other", private=False)
    on_hub.backbone_.source_ = HubSource("tester/other", commit)
    publish(on_hub)
    with pytest.raises(WeightsError, match="backbone: the weights this branch was trained on"):
        load()
    assert not list(cache.glob("models--tester--scratch/snapshots/*"))


def test_fit_takes_the_name_of_a_backbone(published_base, hub, defects, tiny, tmp_path):
    short = {"kimg": 0.008, "batch_size": 4, "seed": 0, "device": "cpu", "verbose": 0}
    synth = DefectSynthesizer("tester/base", **short)
    before = len(hub.log)
    assert synth.get_params()["backbone"] == "tester/base"
    assert len(hub.log) == before  # a constructor stores
    synth.fit(*defects(4))
    assert synth.backbone_.source_ == HubSource("tester/base", published_base)
    synth.save_pretrained(tmp_path / "s")
    assert not (tmp_path / "s" / "backbone").exists()


# -- what is published ---


def test_every_file_is_in_the_list_of_sums(hub, fitted_synth):
    publish(fitted_synth)
    files = hub.files(NAME)
    lines = files["SHA256SUMS"].decode().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(sums) == (FILES | INNER) - {".gitattributes", "SHA256SUMS"}
    assert all(hashlib.sha256(files[name]).hexdigest() == sums[name] for name in sums)


def test_the_card_tells_what_a_stranger_has_to_know(hub, fitted_synth, defects):
    found = fitted_synth.evaluate(*defects(6, seed=5), n=6, extractor=None, perceptual=None)
    publish(
        fitted_synth,
        license="cc-by-nc-sa-4.0",
        training_data="Drawn plates with pale squares, by the tests.",
        evaluation=found,
    )
    card = hub.files(NAME)["README.md"].decode()
    assert card.startswith('---\nlicense: "cc-by-nc-sa-4.0"\nlibrary_name: defectgen\n')
    assert "pipeline_tag: unconditional-image-generation" in card
    assert "Drawn plates with pale squares, by the tests." in card
    assert "hold the 6 training photos of defects with their masks" in card
    assert found.table() in card
    assert "**area**: mean share of the pixels that masks cover." in card  # the protocol
    assert fitted_synth.config_["data"]["digest"] in card
    assert '"first_resolution"' in card
    for title in ("Use", "Training data", "Metrics", "Limits", "Configuration", "Files"):
        assert f"\n## {title}\n" in card
    with_sheet = re.search(r"!\[[^]]+\]\((\S+)\)", card)
    assert with_sheet is not None
    assert with_sheet[1] in hub.files(NAME)


def test_the_card_of_a_backbone_says_what_its_weights_hold(hub, fitted_backbone):
    publish(fitted_backbone, "tester/base")
    card = hub.files("tester/base")["README.md"].decode()
    assert "principal components of the good photos" in card
    assert "The publisher does not say where the photos come from." in card
    assert "\n## Metrics\n\nNot measured.\n" in card


def test_the_head_of_the_card_is_what_the_client_reads(hub, on_hub):
    from huggingface_hub import ModelCard

    publish(on_hub)
    head = ModelCard(hub.files(NAME)["README.md"].decode()).data
    assert head.license == "other"
    assert head.library_name == "defectgen"
    assert head.base_model == "tester/base"


def test_the_sheet_is_a_picture_of_samples(hub, fitted_synth, tmp_path):
    publish(fitted_synth)
    (tmp_path / "sheet.png").write_bytes(hub.files(NAME)["samples.png"])
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width == 8 * 96
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


@pytest.mark.parametrize("kind", ["synthesizer", "backbone"])
def test_the_snippet_of_the_card_runs(hub, fitted_synth, environment, tmp_path, kind):
    thing = fitted_synth if kind == "synthesizer" else fitted_synth.backbone_
    publish(thing, private=False)
    card = hub.files(NAME)["README.md"].decode()
    snippet = re.search(r"```python\n(.*?)```", card, re.S)
    assert snippet is not None
    root = Path(defectgen.__file__).parents[1]
    kernels = {"DEFECTGEN_KERNELS": "reference", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", snippet[1] + "\nprint(tuple(images.shape))"],
        env=os.environ | environment | kernels | {"PYTHONPATH": str(root)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(16, 3, 32, 32)"
    assert (tmp_path / "hf" / "hub" / "models--tester--scratch").is_dir()  # HF_HOME is respected


def test_files_of_an_earlier_version_do_not_stay(hub, fitted_synth, on_hub):
    publish(fitted_synth)
    assert set(hub.files(NAME)) >= INNER
    publish(on_hub)
    assert set(hub.files(NAME)) == FILES
    assert_same_samples(load(), on_hub)


# -- refusals of push ---


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("scratch", {}, "^repo_id: must be 'owner/name'"),
        ("a/../b", {}, "^repo_id:"),
        ("mvtec/bottle", {}, "^repo_id: .*not begin with mvtec/ or visa/"),
        (NAME, {"license": "CC BY 4.0"}, "^license: must be an identifier"),
        (NAME, {"license": None}, "^license:"),
        (NAME, {"license": 'mit"\nevil: 1'}, "^license:"),
        (NAME, {"token": TOKEN + "\n"}, "^token: .*not shown"),
        (NAME, {"include_backbone": False}, "^include_backbone: False only for a backbone that"),
    ],
)
def test_push_refuses_before_anything_is_sent(hub, fitted_synth, name, options, words):
    with pytest.raises(ConfigError, match=words) as error:
        publish(fitted_synth, name, **options)
    assert TOKEN not in str(error.value)
    assert hub.log == []


def test_the_license_has_no_default(hub, fitted_synth, fitted_backbone):
    for thing in (fitted_synth, fitted_backbone):
        with pytest.raises(TypeError, match="license"):
            thing.push_to_hub(NAME, token=TOKEN)


def test_an_evaluation_of_other_weights_is_refused(hub, fitted_synth, defects):
    from dataclasses import replace

    found = fitted_synth.evaluate(*defects(6, seed=5), n=6, extractor=None, perceptual=None)
    strange = replace(found, settings={**found.settings, "model": "sha256:" + "0" * 64})
    with pytest.raises(ConfigError, match="^evaluation: of these weights"):
        publish(fitted_synth, evaluation=strange)
    assert hub.log == []


def test_the_evaluation_of_a_backbone_is_on_its_card_and_of_no_other(hub, fitted_backbone):
    found = Evaluation(
        scores={"kid@x": {"generated": 1.5}},
        errors={},
        settings={"model": fitted_backbone.digest()},
    )
    publish(fitted_backbone, "tester/base", evaluation=found)
    assert found.table() in hub.files("tester/base")["README.md"].decode()
    strange = Evaluation(scores={}, errors={}, settings={"model": "sha256:" + "0" * 64})
    before = len(hub.log)
    with pytest.raises(ConfigError, match="^evaluation: of these weights"):
        publish(fitted_backbone, "tester/base", evaluation=strange)
    assert len(hub.log) == before


def test_nothing_unfitted_is_published(hub, fitted_backbone):
    for thing in (Backbone(32), DefectSynthesizer(fitted_backbone)):
        with pytest.raises(NotFittedError):
            publish(thing)
    assert hub.log == []


def test_new_repositories_are_private_and_public_ones_no_surprise(hub, fitted_backbone):
    publish(fitted_backbone)
    assert hub.repos[NAME].private
    hub.create("tester/open")
    with pytest.raises(ConfigError, match="^private: True only for .*public tester/open"):
        publish(fitted_backbone, "tester/open")
    assert set(hub.files("tester/open")) == {".gitattributes"}
    publish(fitted_backbone, "tester/open", private=False)
    assert set(hub.files("tester/open")) == FILES


def test_push_without_the_right_to_it_says_so(hub, fitted_backbone):
    with pytest.raises(WeightsError, match="401 .*pass a token that may") as error:
        publish(fitted_backbone, token="hf_wrong")
    assert "hf_wrong" not in str(error.value)
    assert hub.repos == {}

"""A trained category published, and everything after which the list is as it was."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hub_server import TOKEN
from PIL import Image

from defectgen import (
    Backbone,
    ConfigError,
    DefectSynthesizer,
    WeightsError,
    experiment,
    publish_checks,
    zoo,
)
from defectgen.cli import main
from defectgen.experiment_settings import Settings
from defectgen.publish import Terms, publish, repository
from defectgen.registry import ZOO_FILE, use_zoo, write_record, zoo_record

NAME, BASE = "mvtec/bottle", "tester/mvtec-bottle"
TYPES = ("broken_large", "contamination")
LICENSE = "cc-by-nc-sa-4.0"
pytestmark = [
    pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning"),
    pytest.mark.filterwarnings("ignore::defectgen.errors.DataWarning"),
]


def write_photos(home):
    """A category in the layout of MVTec AD: goods, two types learned, and one of too few photos."""
    source = np.random.default_rng(0)

    def picture(path, pixels=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            pixels = source.integers(90, 160, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    for index in range(8):
        picture(home / f"train/good/{index:03d}.png")
    for defect, count in ((TYPES[0], 8), (TYPES[1], 8), ("broken_small", 2)):
        for index in range(count):
            mask = np.zeros((32, 32), np.uint8)
            mask[8:16, 4 + index : 16] = 255
            picture(home / f"test/{defect}/{index:03d}.png")
            picture(home / f"ground_truth/{defect}/{index:03d}_mask.png", mask)


@pytest.fixture(scope="session")
def trained(shrink, tmp_path_factory):
    """Photos, a finished experiment, and a list whose entry has its resolution."""
    root = tmp_path_factory.mktemp("zoo")
    write_photos(root / "mvtec/bottle")
    (root / "zoo.json").write_bytes(ZOO_FILE.read_bytes())
    short = {"kimg": 0.016, "defect_kimg": 0.016, "samples": 8, "precision": "fp32"}
    settings = Settings(**short, device="cpu", verbose=0)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shrink(patch)
        with use_zoo(root / "zoo.json"):
            write_record(replace(zoo_record(NAME), resolution=32))
            zoo.train([NAME], root / "mvtec", root / "out", settings)
    return root


class World:
    """A copy of all of it, to be spoiled."""

    def __init__(self, root):
        self.data, self.folder = root / "mvtec", root / "out/mvtec/bottle"
        self.list = root / "zoo.json"

    def publish(self, name=NAME, **change):
        terms = Terms(**{"license": LICENSE, "repo_id": BASE, **change})
        with use_zoo(self.list):
            return publish(name, self.data, self.folder, terms, device="cpu")

    def refused(self, error, words, name=NAME, **change):
        before = self.list.read_bytes()
        with pytest.raises(error, match=words) as caught:
            self.publish(name, **change)
        assert self.list.read_bytes() == before
        assert [p for p in self.list.parent.iterdir() if p.name.startswith(".")] == []
        assert TOKEN not in str(caught.value)
        assert "\n" not in str(caught.value)


class Patches:
    """Features of no network, which take no time."""

    name = "patches"

    def __call__(self, images):
        return torch.nn.functional.avg_pool2d(images, 8).flatten(1)


@pytest.fixture
def world(hub, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for module in ("evaluation", "publish"):
        monkeypatch.setattr(f"defectgen.{module}.find_extractor", Patches)
    root = tmp_path / "a world"
    shutil.copytree(trained, root)
    for defect in TYPES:  # as if the experiment had come from another machine
        config = root / "out/mvtec/bottle" / defect / "config.json"
        config.write_text(config.read_text().replace(str(trained), "/another/machine"))
    return World(root)


# -- what is published ---


def test_backbone_and_branches_are_loaded_by_the_names_of_the_zoo(world, hub, cache):
    entry = world.publish()
    assert set(hub.repos) == {BASE, f"{BASE}-broken_large", f"{BASE}-contamination"}
    assert not any(repo.private for repo in hub.repos.values())
    assert set(entry.branches) == set(TYPES)
    assert not cache.exists()  # what was pulled for the proof is gone
    local = Backbone.from_pretrained(world.folder / "backbone", device="cpu")
    with use_zoo(world.list):
        assert zoo_record(NAME) == entry
        there = Backbone.from_pretrained(NAME, device="cpu")
        assert there.digest() == local.digest()
        assert there.source_.repo_id == BASE
        for defect in TYPES:
            back = DefectSynthesizer.from_pretrained(f"{NAME}/{defect}", device="cpu")
            own = DefectSynthesizer.from_pretrained(world.folder / defect, device="cpu")
            assert torch.equal(back.sample(2, seed=1), own.sample(2, seed=1))
            assert back.backbone_.source_ == there.source_  # no copy of the backbone
        with pytest.raises(WeightsError, match="not published yet"):
            DefectSynthesizer.from_pretrained(f"{NAME}/broken_small")


def test_the_cards_tell_photos_terms_and_scores(world, hub):
    world.publish()
    cards = {name: hub.files(name)["README.md"].decode() for name in hub.repos}
    for card in cards.values():
        assert card.startswith(f'---\nlicense: "{LICENSE}"\n')
        assert "8 good photos" in card
        assert "of the category bottle of MVTec AD. License of the photos: CC-BY-NC-SA-4.0." in card
        assert "Bergmann, Fauser, Sattlegger, Steger" in card
        assert "Not measured" not in card
        assert "| kid@patches |" in card
        assert "- **kid**: kernel distance x 1000" in card
    assert "real 8 good photos of the training" in cards[BASE]
    branch = cards[f"{BASE}-broken_large"]
    assert "Learned from 5 photos of the defect 'broken_large' with masks, its backbone" in branch
    assert "real 3, training 5" in branch
    assert f'base_model: "{BASE}"' in branch


def test_scores_are_computed_anew(world, hub):
    kept = world.folder / "broken_large.json"
    scores = json.loads(kept.read_text())
    true = scores["scores"]["area"]["generated"]
    scores["scores"]["area"]["generated"] = 12345.0
    kept.write_text(json.dumps({**scores, "table": "| area | 12345 |"}))
    world.publish()
    card = hub.files(f"{BASE}-broken_large")["README.md"].decode()
    assert "12345" not in card
    assert f"{true:.4g}" in card


def test_publishing_again_replaces(world, hub):
    first = world.publish()
    hub.commit(BASE, {"later.txt": b"by someone else"})
    second = world.publish(repo_id=BASE)
    assert second.revision != first.revision
    assert hub.repos[BASE].refs["main"] == second.revision
    with use_zoo(world.list):
        assert zoo_record(NAME) == second


def test_private_and_the_owner_of_the_command(world, hub, capsys):
    words = ("zoo", "publish", NAME, "--data", world.data, "--from", world.folder)
    words += ("--license", LICENSE, "--zoo", world.list, "--device", "cpu")
    assert main([str(word) for word in (*words, "--namespace", "tester", "--private")]) == 0
    assert all(repo.private for repo in hub.repos.values())
    shown = capsys.readouterr().out
    assert f"{NAME}: {BASE} at {hub.repos[BASE].refs['main']}, sha256:" in shown
    assert f"{NAME}/broken_small: not published yet" in shown
    assert main(["zoo", "list", "--zoo", str(world.list)]) == 0
    assert f"{BASE}, 2 of 3 branches" in capsys.readouterr().out


# -- what is refused before anything is sent ---


@pytest.mark.parametrize("private", [False, True])
def test_a_repository_that_others_see_than_are_meant(world, hub, private):
    name = f"{BASE}-contamination"
    hub.create(name, private=not private)
    want = "private" if private else "public"
    words = f"^private: must be {not private} for {name}, .* make it {want} at the hub"
    world.refused(ConfigError, words, private=private)
    assert set(hub.repos) == {name}
    hub.repos[name].private = private
    world.publish(private=private)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"license": "apache-2.0"}, "^license: must be that of the photos.*take 'cc-by-nc-sa-4.0'"),
        ({"license": "cc-by-4.0"}, "^license: must be that of the photos"),
        ({"license": "cc-by-nc-4.0"}, "^license: must be that of the photos"),  # share-alike
        ({"license": "CC BY"}, "^license: must be an identifier"),
        ({"repo_id": "bottle"}, "^repo_id: must be 'owner/name'"),
    ],
)
def test_terms(world, hub, change, words):
    world.refused(ConfigError, words, **change)
    assert hub.log == []


@pytest.mark.parametrize("name", ["report.json", "backbone", "broken_large", "contamination"])
def test_what_is_missing_is_named_with_the_command(world, hub, name):
    path = world.folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = ["--data", world.data, "--out", world.folder.parents[1], "--zoo", world.list]
    command = f"run `defectgen zoo train {NAME} {shlex.join(map(str, words))}"
    command += " --kimg 0.016 --defect-kimg 0.016 --precision fp32` first"
    found = re.escape(f"without {name}") + ".*; " + re.escape(command)
    world.refused(ConfigError, f"^folder: must be that of a finished .* {found}")
    assert hub.log == []
    assert not path.exists()  # nothing is trained here


def test_results_without_settings_are_not_trained_over(world, hub):
    (world.folder / "settings.json").unlink()
    world.refused(ConfigError, "^folder: must hold settings.json beside what .*; restore it")
    assert hub.log == []


def test_no_experiment_there(world, hub):
    shutil.rmtree(world.folder)
    world.folder.mkdir()
    world.refused(ConfigError, "without settings.json; run `defectgen zoo train .*` first")
    assert hub.log == []


@pytest.mark.parametrize("entry", ["training", "data"])
@pytest.mark.parametrize("part", ["backbone", "broken_large"])
def test_a_config_without_its_entries(world, hub, part, entry):
    path = world.folder / part / "config.json"
    text = json.loads(path.read_text())
    del text["config"][entry]
    path.write_text(json.dumps(text))
    world.refused(WeightsError, "^folder: every entry of config.json as it was written")
    assert hub.log == []


def test_another_category_resolution_or_photos(world, hub):
    world.refused(ConfigError, "whose name is 'mvtec/wood'; got .*mvtec/bottle", name="mvtec/wood")
    world.refused(WeightsError, "^name: must be of the zoo", name="mvtec/bottel")
    with use_zoo(world.list):
        entry = zoo_record(NAME)
        write_record(replace(entry, resolution=64))
        world.refused(ConfigError, "whose resolution is 64; got one with 32")
        write_record(replace(entry, augment=("flip_x",)))
        world.refused(ConfigError, "whose augment is .'flip_x'.; got one with \\[\\]")
        write_record(entry)
    good = world.data / "bottle/train/good"
    (good / "000.png").write_bytes((good / "001.png").read_bytes())
    world.refused(ConfigError, "^photos: must be as when")
    assert hub.log == []


def test_weights_of_another_experiment_or_damaged_ones(world, hub):
    config = world.folder / "contamination/config.json"
    text = config.read_text()
    others = (("data", "digest", "sha256:" + "0" * 64), ("training", "kimg", 0.032))
    for part, field, value in (*others, ("training", "seed", 5)):
        told = json.loads(text)
        told["config"][part][field] = value
        config.write_text(json.dumps(told))
        words = "^folder: must hold weights of its own .* in contamination; remove"
        world.refused(WeightsError, words)
    base = world.folder / "backbone/config.json"
    told = json.loads(base.read_text())
    told["config"]["training"]["seed"] = 5
    whole = base.read_text()
    base.write_text(json.dumps(told))
    world.refused(WeightsError, "^folder: must hold weights of its own .* in backbone, contamin")
    base.write_text(whole)
    weights = world.folder / "broken_large/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    world.refused(WeightsError, "must be the whole file")
    for text in ("[]", "{", "\xff", '{"name": "mvtec/bottle"}'):
        (world.folder / "settings.json").write_bytes(text.encode("latin-1"))
        world.refused(ConfigError, "^folder: must hold the settings.json of an experiment")
    assert hub.log == []


def test_a_list_in_a_folder_that_takes_nothing(world, hub, monkeypatch):
    def refuse(path, name, *, folder):
        raise ConfigError(f"{name}: must be a place that can be written to; got {str(path)!r}")

    monkeypatch.setattr(publish_checks, "probe_writable", refuse)
    world.refused(ConfigError, "^zoo: must be a place that can be written to; got '.*json'")
    assert hub.log == []


def test_a_list_that_is_read_only(world, hub):
    world.list.chmod(0o444)
    world.refused(ConfigError, "^zoo: must be a list that you may write; .*--zoo FILE")
    assert hub.log == []


def test_an_evaluation_that_fails(world, hub, monkeypatch):
    def fails(self, synth, defect):
        if defect == "contamination":
            raise ConfigError("n: must be at least 6; got 2; ask for more")

    monkeypatch.setattr(experiment.Experiment, "evaluate", fails)
    world.refused(ConfigError, "^n: must be at least 6")
    assert hub.repos == {}


def test_an_extractor_that_is_not_there(world, hub, monkeypatch):
    def none():
        raise ConfigError("metrics: must be installed; got none; pip install it")

    monkeypatch.setattr("defectgen.publish.find_extractor", none)
    world.refused(ConfigError, "^metrics: must be installed")
    assert hub.log == []


# -- what fails on the way ---


def test_no_right_to_push(world, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    world.refused(ConfigError, "^token: must be one that may write to .* answers 401; set HF_TOKEN")
    assert hub.repos == {}


def test_the_server_fails_at_the_second_repository(world, hub, monkeypatch):
    real = hub.commit

    def commit(name, add, delete=()):
        if name != BASE and "model.safetensors" in add:
            raise ServerFails(500, "InternalError")
        return real(name, add, delete)

    from hub_server import Refused as ServerFails

    hub.commit = commit
    said = f"as it was, so that no entry .* pushed before .{BASE} at [0-9a-f]{{40}}.: give the"
    world.refused(WeightsError, said)
    assert "model.safetensors" in hub.files(BASE)
    with use_zoo(world.list), pytest.raises(WeightsError, match="not published yet"):
        Backbone.from_pretrained(NAME)
    hub.commit = real
    world.publish()  # and goes on from there


def test_what_was_pushed_but_cannot_be_pulled_is_not_named(world, hub):
    hub.cut["model.safetensors"] = 100
    hub.ranges = False
    world.refused(WeightsError, f"the list is as it was, .* pushed before .{BASE} at")


def test_a_list_that_cannot_be_written_in_the_end(world, hub, monkeypatch):
    def full(record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("defectgen.publish.write_record", full)
    world.refused(WeightsError, "No space left on device; the list is as it was")


@pytest.mark.parametrize("change", ["--from", "--license", "--data", "--kimg"])
def test_the_command_asks_for_what_it_needs_and_takes_no_more(world, hub, capsys, change):
    given = {"--data": world.data, "--from": world.folder, "--license": LICENSE}
    given |= {"--zoo": world.list}
    if given.pop(change, None) is None:
        given[change] = 2  # of train
    flat = [str(word) for pair in given.items() for word in pair]
    with pytest.raises(SystemExit) as left:
        main(["zoo", "publish", NAME, *flat])
    assert left.value.code == 2
    assert f"arguments{' are required' if change != '--kimg' else ''}: {change}" in (
        capsys.readouterr().err
    )
    assert hub.log == []


def test_an_interrupt_names_what_was_pushed(world, hub, capsys, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("defectgen.publish.tensor_digest", stopped)  # after the first branch
    with pytest.raises(KeyboardInterrupt):
        world.publish()
    told = capsys.readouterr().err
    assert re.search(f"no entry names .*{BASE} at .*, {BASE}-broken_large at .*again", told)


def test_an_interrupt_says_that_the_list_is_as_it_was(world, capsys, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("defectgen.publish.publish", stopped)
    words = ("--data", world.data, "--from", world.folder, "--license", LICENSE)
    assert main([str(word) for word in ("zoo", "publish", NAME, *words)]) == 130
    assert "interrupted; the list is as it was" in capsys.readouterr().err


def test_the_repository_that_is_meant():
    record = zoo_record(NAME)
    assert repository(record, None, None) == "defectgen/mvtec-bottle"
    assert repository(record, "acme", None) == "acme/mvtec-bottle"
    assert repository(record, None, "acme/b") == "acme/b"


def test_other_weights_than_were_evaluated_are_not_pinned():
    from defectgen.metrics.report import Evaluation
    from defectgen.publish import _check_same

    evaluated = Evaluation(scores={}, errors={}, settings={"model": "sha256:a"})
    _check_same("o/n", "sha256:a", evaluated)
    with pytest.raises(WeightsError, match="^hub: must hold what was pushed to o/n; got other"):
        _check_same("o/n", "sha256:b", evaluated)

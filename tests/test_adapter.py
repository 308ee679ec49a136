"""Synthesizers on disk: with their backbone, or beside it."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch

from defectgen import Backbone, ConfigError, DefectSynthesizer, NotFittedError, WeightsError

pytestmark = pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning")


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


ALONE = {"config.json", "model.safetensors"}
WHOLE = ALONE | {"backbone/config.json", "backbone/model.safetensors"}


def load(folder):
    return DefectSynthesizer.from_pretrained(folder, device="cpu")


def assert_same_samples(a, b):
    for one, other in zip(*(s.sample(5, return_masks=True, seed=3) for s in (a, b)), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def home(fitted_backbone, tmp_path):
    """A folder that holds the fitted backbone."""
    fitted_backbone.save_pretrained(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def stranger(fitted_backbone):
    """A backbone of the same shape with other weights."""
    other = copy.deepcopy(fitted_backbone)
    with torch.no_grad():
        next(other.generator.parameters()).add_(0.5)
    return other


@pytest.fixture
def on_folder(fitted_synth, home):
    """The fitted synthesizer as if its backbone had been read from ``home``."""
    synth = copy.copy(fitted_synth)
    synth.backbone = str(home)
    synth.backbone_ = Backbone.from_pretrained(home, device="cpu")
    return synth


# -- one folder with everything ---


@pytest.mark.parametrize("include", [None, True])
def test_a_backbone_from_memory_is_included(fitted_synth, tmp_path, include):
    fitted_synth.save_pretrained(tmp_path / "s", include_backbone=include)
    assert files(tmp_path / "s") == WHOLE
    back = load(tmp_path / "s")
    assert_same_samples(back, fitted_synth)
    assert back.config_ == fitted_synth.config_
    assert back.backbone_.digest() == fitted_synth.backbone_.digest()
    for name in ("branch_", "matching_", "discriminator_"):
        ours, theirs = (getattr(s, name).state_dict() for s in (fitted_synth, back))
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
        assert not any(p.requires_grad for p in getattr(back, name).parameters())
    assert all(torch.equal(back.codes_[k], v) for k, v in fitted_synth.codes_.items())


def test_a_self_contained_folder_may_move(fitted_synth, tmp_path):
    fitted_synth.save_pretrained(tmp_path / "s")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "s", tmp_path / "elsewhere" / "t")
    assert_same_samples(load(tmp_path / "elsewhere" / "t"), fitted_synth)


def test_its_backbone_can_be_read_on_its_own(fitted_synth, tmp_path):
    fitted_synth.save_pretrained(tmp_path / "s")
    alone = Backbone.from_pretrained(tmp_path / "s" / "backbone", device="cpu")
    assert alone.digest() == fitted_synth.backbone_.digest()


def test_a_backbone_from_memory_cannot_be_left_out(fitted_synth, tmp_path):
    with pytest.raises(ConfigError, match="^include_backbone: .*include it") as error:
        fitted_synth.save_pretrained(tmp_path / "s", include_backbone=False)
    assert "; got a backbone without such a folder; " in str(error.value)
    assert not (tmp_path / "s").exists()


def test_saved_over_itself_it_still_has_its_backbone(fitted_synth, tmp_path):
    """The folder the backbone was read from lies inside the one that is about to be replaced."""
    fitted_synth.save_pretrained(tmp_path / "s")
    back = load(tmp_path / "s")
    back.save_pretrained(tmp_path / "s")
    assert files(tmp_path / "s") == WHOLE
    assert_same_samples(load(tmp_path / "s"), fitted_synth)
    with pytest.raises(ConfigError, match="^include_backbone:"):
        back.save_pretrained(tmp_path / "s", include_backbone=False)
    assert_same_samples(load(tmp_path / "s"), fitted_synth)


# -- an adapter beside its backbone ---


@pytest.mark.parametrize("include", [None, False])
def test_an_unchanged_folder_is_named_not_copied(on_folder, home, tmp_path, include):
    on_folder.save_pretrained(tmp_path / "s", include_backbone=include)
    assert files(tmp_path / "s") == ALONE
    entry = json.loads((tmp_path / "s" / "config.json").read_text())["backbone"]
    assert entry == {
        "included": False, "source": str(home), "digest": on_folder.backbone_.digest()
    }  # fmt: skip
    assert_same_samples(load(tmp_path / "s"), on_folder)


def test_an_adapter_moves_without_its_backbone(on_folder, tmp_path):
    on_folder.save_pretrained(tmp_path / "s")
    shutil.move(tmp_path / "s", tmp_path / "t")
    assert_same_samples(load(tmp_path / "t"), on_folder)


def test_a_relative_folder_is_found_from_anywhere(on_folder, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    on_folder.backbone_ = Backbone.from_pretrained("home", device="cpu")
    on_folder.save_pretrained("s")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_same_samples(load(tmp_path / "s"), on_folder)


@pytest.mark.parametrize("source", [r"C:\exp\home", r"..\home", r"\\host\share\home"])
def test_an_experiment_of_a_windows_machine_is_found_by_its_names(
    on_folder, home, tmp_path, source
):
    on_folder.save_pretrained(home.parent / "s")
    config = home.parent / "s" / "config.json"
    told = json.loads(config.read_text())
    told["backbone"]["source"] = source
    config.write_text(json.dumps(told))
    if ".." in source:
        with pytest.raises(WeightsError, match="^backbone: must be named by a path without '..'"):
            load(home.parent / "s")
    else:
        assert_same_samples(load(home.parent / "s"), on_folder)


def test_an_unchanged_folder_may_be_copied_all_the_same(on_folder, home, tmp_path):
    on_folder.save_pretrained(tmp_path / "s", include_backbone=True)
    shutil.rmtree(home)
    assert files(tmp_path / "s") == WHOLE
    assert_same_samples(load(tmp_path / "s"), on_folder)


@pytest.mark.parametrize("fate", ["changed", "gone", "damaged"])
def test_a_folder_that_is_no_longer_the_same_is_not_named(
    on_folder, home, stranger, tmp_path, fate
):
    spoil(home, stranger, fate)
    with pytest.raises(ConfigError, match="^include_backbone:"):
        on_folder.save_pretrained(tmp_path / "s", include_backbone=False)
    on_folder.save_pretrained(tmp_path / "s")
    assert files(tmp_path / "s") == WHOLE
    assert_same_samples(load(tmp_path / "s"), on_folder)


def test_a_backbone_changed_in_memory_is_not_saved(on_folder, tmp_path):
    with torch.no_grad():
        on_folder.backbone_.generator.mapping.w_avg.add_(1)
    with pytest.raises(ConfigError, match="save_pretrained: the backbone as it was"):
        on_folder.save_pretrained(tmp_path / "s")
    assert list(tmp_path.glob("s*")) == []


def spoil(home, stranger, fate):
    if fate == "changed":
        stranger.save_pretrained(home)
    elif fate == "gone":
        shutil.rmtree(home)
    else:
        weights = home / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-3] ^= 1
        weights.write_bytes(data)


@pytest.mark.parametrize("fate", ["changed", "gone", "damaged"])
def test_a_branch_is_refused_without_its_own_backbone(on_folder, home, stranger, tmp_path, fate):
    on_folder.save_pretrained(tmp_path / "s")
    spoil(home, stranger, fate)
    said = {
        "changed": "^backbone: the weights this branch was trained on",
        "gone": "^backbone: the branch in .* needs the backbone at .*home.*neither; put it back",
        "damaged": "home",
    }
    with pytest.raises(WeightsError, match=said[fate]) as error:
        load(tmp_path / "s")
    assert fate != "gone" or str(tmp_path / "s") in str(error.value)
    assert "; got " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_changed_backbone_inside_is_refused_too(fitted_synth, stranger, tmp_path):
    fitted_synth.save_pretrained(tmp_path / "s")
    stranger.save_pretrained(tmp_path / "s" / "backbone")
    with pytest.raises(WeightsError, match="^backbone: the weights this branch was trained on"):
        load(tmp_path / "s")


# -- strictness ---


def test_nothing_fitted_nothing_saved(fitted_backbone, tmp_path):
    with pytest.raises(NotFittedError):
        DefectSynthesizer(fitted_backbone).save_pretrained(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_the_other_kind_of_folder_is_refused_with_its_reader(fitted_synth, home, tmp_path):
    fitted_synth.save_pretrained(tmp_path / "s")
    with pytest.raises(WeightsError, match=r"Backbone\.from_pretrained"):
        load(home)
    with pytest.raises(WeightsError, match=r"DefectSynthesizer\.from_pretrained"):
        Backbone.from_pretrained(tmp_path / "s", device="cpu")


def test_a_foreign_folder_is_never_replaced(fitted_synth, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("mine")
    with pytest.raises(ConfigError):
        fitted_synth.save_pretrained(tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.txt").read_text() == "mine"


def test_saving_changes_nothing(fitted_synth, tmp_path):
    before = fitted_synth.sample(2, seed=0), fitted_synth.backbone_.digest()
    fitted_synth.save_pretrained(tmp_path / "s")
    assert torch.equal(fitted_synth.sample(2, seed=0), before[0])
    assert fitted_synth.backbone_.digest() == before[1]
    assert fitted_synth.backbone_.source_ is None


def test_second_round_trip_is_the_first(fitted_synth, tmp_path):
    fitted_synth.save_pretrained(tmp_path / "a")
    load(tmp_path / "a").save_pretrained(tmp_path / "b", include_backbone=True)
    for name in sorted(WHOLE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


# -- a folder as parameter ---


SHORT = {"kimg": 0.008, "batch_size": 4, "seed": 0, "device": "cpu", "verbose": 0}


def test_a_folder_as_backbone_is_read_at_each_fit(home, stranger, defects, tiny, tmp_path):
    synth = DefectSynthesizer(home, **SHORT).fit(*defects(4))
    first = synth.backbone_.digest()
    stranger.save_pretrained(home)
    synth.fit(*defects(4))
    assert synth.backbone == home
    assert synth.backbone_.digest() == stranger.digest() != first
    synth.save_pretrained(tmp_path / "s")
    assert files(tmp_path / "s") == ALONE


def test_warm_start_on_a_backbone_of_another_shape_is_refused(
    fitted_synth, product, defects, tiny, tmp_path
):
    wide = Backbone(64, augment="safe", **SHORT).fit(product(4, resolution=64))
    synth = copy.copy(fitted_synth).set_params(backbone=wide, warm_start=True, **SHORT)
    with pytest.raises(ConfigError, match="^warm_start: .*; got ") as error:
        synth.fit(*defects(4, resolution=64))
    assert "\n" not in str(error.value)
    synth.set_params(warm_start=False).fit(*defects(4, resolution=64))
    assert synth.sample(1, seed=0).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("part", "field", "value", "words"),
    [
        ("defect", "known", -3, "configuration of a network; got RuntimeError"),
        ("defect", "known", 10**12, r"branch\.known\.masks has shape"),
        ("defect", "known", 10**30, "configuration of a network; got "),
        ("defect", "moves", "scale,melt", "moves: must be names out of flip_x"),
        ("defect", "first_resolution", 12, "first_resolution"),
        ("defect", "places", 10**9, "places: "),
        ("defect", "bend", -0.1, "bend: must be a number from 0"),
        ("backbone", "mapping_layers", 10**9, "has shape|mapping_layers: from 0 to 64"),
        ("backbone", "channel_base", 2**50, "has shape|got RuntimeError"),
    ],
)
def test_a_configuration_that_asks_for_what_is_not_there(
    fitted_synth, tmp_path, part, field, value, words
):
    fitted_synth.save_pretrained(tmp_path / "s")
    path = tmp_path / "s" / "config.json"
    if part == "backbone":
        path = tmp_path / "s" / "backbone" / "config.json"
    config = json.loads(path.read_text())
    config["config"][part][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=words):
        load(tmp_path / "s")


# -- moved together with its backbone ---


def test_both_folders_may_move_together(on_folder, home, tmp_path):
    on_folder.save_pretrained(tmp_path / "s")
    (tmp_path / "elsewhere").mkdir()
    for name in ("s", "home"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert_same_samples(load(tmp_path / "elsewhere/s"), on_folder)


def test_a_copy_stands_on_its_own_backbone(on_folder, home, stranger, tmp_path):
    """Although that of the original is still there, and has been trained again since."""
    on_folder.save_pretrained(tmp_path / "s")
    (tmp_path / "elsewhere").mkdir()
    for name in ("s", "home"):
        shutil.copytree(tmp_path / name, tmp_path / "elsewhere" / name)
    stranger.save_pretrained(home)
    assert_same_samples(load(tmp_path / "elsewhere/s"), on_folder)
    with pytest.raises(WeightsError, match="^backbone: the weights this branch was trained on"):
        load(tmp_path / "s")


def test_a_copy_loads_although_the_backbone_of_the_original_is_damaged(on_folder, home, tmp_path):
    on_folder.save_pretrained(tmp_path / "s")
    (tmp_path / "elsewhere").mkdir()
    for name in ("s", "home"):
        shutil.copytree(tmp_path / name, tmp_path / "elsewhere" / name)
    (home / "config.json").write_text("{")
    assert_same_samples(load(tmp_path / "elsewhere/s"), on_folder)
    with pytest.raises(WeightsError):
        load(tmp_path / "s")


def test_another_backbone_beside_it_is_refused(on_folder, home, stranger, tmp_path):
    on_folder.save_pretrained(tmp_path / "s")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "s").rename(tmp_path / "elsewhere/s")
    shutil.rmtree(home)
    stranger.save_pretrained(tmp_path / "elsewhere/home")
    with pytest.raises(WeightsError, match="^backbone: the weights this branch was trained on"):
        load(tmp_path / "elsewhere/s")

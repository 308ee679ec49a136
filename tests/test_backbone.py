"""Backbone: estimator manners, learning from every kind of input, sampling, files, freezing."""

from __future__ import annotations

import copy
import inspect
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from run_folders import assert_run_folder

from defectgen import (
    Backbone,
    ConfigError,
    DefectGenError,
    ImageError,
    NotFittedError,
    WeightsError,
)
from defectgen.augment.policy import POLICIES
from defectgen.config import BackboneConfig, TrainConfig
from defectgen.locks import held
from defectgen.rng import SampleNoise, latents, sample_seeds

#: Two iterations of four images.
SHORT = {"kimg": 0.008, "batch_size": 4, "seed": 0, "device": "cpu", "verbose": 0}


def one_sentence(error):
    """The house form: "argument: rule; got value; do this"."""
    text = str(error.value)
    return ": " in text and "; got " in text and text.count("\n") == 0 and len(text) < 400


def equal_weights(a, b):
    ours, theirs = a.tensors(), b.tensors()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


# -- manners of an estimator ---


def test_constructor_stores_what_it_is_given(tmp_path):
    given = {
        "resolution": 64, "channels": 1, "preset": None, "kimg": 3, "augment": POLICIES["safe"],
        "batch_size": 7, "precision": "bf16",
            "run_dir": tmp_path / "x", "seed": 9, "device": "cpu", "verbose": 2,
    }  # fmt: skip
    assert set(given) == set(inspect.signature(Backbone).parameters)
    backbone = Backbone(**given)
    for name, value in given.items():
        assert getattr(backbone, name) is value
    assert backbone.get_params() == given
    assert not (tmp_path / "x").exists()


def test_defaults_stay_none_and_nothing_is_built():
    backbone = Backbone()
    undecided = [k for k, v in backbone.get_params().items() if v is None]
    assert set(undecided) >= {"resolution", "preset", "kimg", "batch_size", "run_dir", "seed"}
    assert list(backbone.parameters()) == []
    assert not hasattr(backbone, "config_")


def test_constructor_does_not_judge_its_arguments():
    Backbone(33, kimg=-1, augment="?", device="?")  # as in scikit-learn: fit does


def test_set_params_returns_self_and_refuses_unknown_names():
    backbone = Backbone()
    assert backbone.set_params(kimg=2.0, seed=3) is backbone
    assert (backbone.kimg, backbone.seed) == (2.0, 3)
    with pytest.raises(ConfigError, match="set_params: .*got 'kmig'") as error:
        backbone.set_params(kmig=1)
    assert one_sentence(error)


def test_sklearn_clone_gives_an_unfitted_twin(fitted_backbone):
    clone = pytest.importorskip("sklearn.base").clone
    twin = clone(fitted_backbone)
    assert twin.get_params() == fitted_backbone.get_params()
    assert twin.generator is None
    with pytest.raises(NotFittedError):
        twin.sample(1)


@pytest.mark.parametrize(
    "use",
    [
        lambda b, folder: b.sample(1),
        lambda b, folder: b.digest(),
        lambda b, folder: b.save_pretrained(folder / "x"),
    ],
    ids=["sample", "digest", "save_pretrained"],
)
@pytest.mark.parametrize("preset", [None, "dfmgan"])
def test_unfitted_says_what_to_call(use, preset, tmp_path):
    with pytest.raises(NotFittedError, match="fit") as error:
        use(Backbone(32, preset=preset), tmp_path)
    assert one_sentence(error)
    assert isinstance(error.value, ValueError | AttributeError)
    assert list(tmp_path.iterdir()) == []


def test_fit_returns_self_and_everything_decided_stands_in_config(fitted_backbone, product, tiny):
    backbone = Backbone(32, **SHORT)
    assert backbone.fit(product(12)) is backbone
    config = backbone.config_
    assert BackboneConfig.from_dict(config["backbone"]).resolution == 32
    train = TrainConfig.from_dict(config["training"])
    assert (train.kimg, train.batch_size, train.seed) == (0.008, 4, 0)
    assert set(config["augment"]["policy"]) == set(POLICIES["safe"].to_dict())
    assert len(config["augment"]["reason"]) > 20  # "auto" says what it chose and why
    assert config["data"]["digest"].startswith("sha256:")
    assert config["data"]["images"] == 12
    assert config["trained_kimg"] == 0.008
    json.dumps(config, allow_nan=False)
    assert len(backbone.history_) == 2
    assert backbone.kimg == 0.008  # the parameters themselves are not touched
    assert backbone.get_params()["batch_size"] == 4


def test_no_number_is_left_open(product, tiny):
    backbone = Backbone(**{**SHORT, "seed": None, "kimg": 0.004}).fit(product(8, resolution=40))
    assert backbone.config_["backbone"]["resolution"] == 32  # the largest power of two in 40 px
    assert isinstance(backbone.config_["training"]["seed"], int)
    assert backbone.resolution is None
    assert backbone.seed is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolution": 33}, {"resolution": 16}, {"resolution": 2048}, {"channels": 2},
        {"preset": "stylegan"}, {"kimg": 0}, {"kimg": -1.0}, {"kimg": float("nan")},
        {"kimg": "1"}, {"batch_size": 0}, {"batch_size": 1.5}, {"augment": "flip"},
        {"device": "tpu9"}, {"seed": -1}, {"seed": 1.5}, {"seed": "0"},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_parameters_are_refused_in_one_sentence_before_training(wrong, product, tiny):
    (name,) = wrong
    with pytest.raises(ConfigError, match=name) as error:
        Backbone(**{"resolution": 32, **SHORT}).set_params(**wrong).fit(product(4))
    assert one_sentence(error)


@pytest.mark.parametrize(
    "numbers",
    [
        {"kimg": np.float64(0.008)}, {"kimg": np.float32(0.008)}, {"batch_size": np.int64(4)},
        {"seed": np.int64(0)}, {"resolution": np.int64(32)}, {"channels": np.int64(3)},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_numpy_serve_as_numbers(numbers, product, tiny, tmp_path):
    given = {"resolution": 32, **SHORT, "run_dir": tmp_path / "run", **numbers}
    backbone = Backbone(**given).fit(product(4))
    backbone.save_pretrained(tmp_path / "saved")
    assert Backbone.from_pretrained(tmp_path / "saved", device="cpu").sample(1, seed=0).shape == (
        1,
        3,
        32,
        32,
    )


def test_unusable_images_leave_an_earlier_fit_alone(fitted_backbone, product):
    backbone = copy.deepcopy(fitted_backbone)
    before = backbone.digest()
    with pytest.raises(ImageError):
        backbone.fit(torch.full((4, 3, 32, 32), float("nan")))
    assert backbone.digest() == before


def test_fit_forgets_the_fit_before(product, tiny):
    fresh = Backbone(32, **SHORT).fit(product(6))
    again = Backbone(32, **SHORT).fit(product(6, seed=3)).fit(product(6))
    assert equal_weights(fresh, again)
    assert again.history_ == fresh.history_
    assert again.config_ == fresh.config_


def test_another_seed_is_another_backbone(product, tiny):
    a, b = (Backbone(32, **{**SHORT, "seed": s}).fit(product(6)) for s in (0, 1))
    assert not equal_weights(a, b)


# -- input ---


def as_folder(images, folder):
    folder.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k:03d}.png")
    return folder


def test_equal_pixels_give_equal_backbones_whatever_they_come_in(product, tiny, tmp_path):
    images = product(6)
    folder = as_folder(images, tmp_path / "good")
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    forms = {
        "uint8 tensor": images,
        "float tensor": images.float() / 255,
        "array": images.numpy(),
        "arrays": arrays,
        "PIL": [Image.fromarray(a) for a in arrays],
        "paths": sorted(folder.iterdir()),
        "folder": folder,
        "name of a folder": str(folder),
    }
    wanted = Backbone(32, **SHORT).fit(images)
    for name, form in forms.items():
        found = Backbone(32, **SHORT).fit(form)
        assert equal_weights(found, wanted), name
        assert found.config_["data"] == wanted.config_["data"], name


def test_grey_from_end_to_end(product, tiny, tmp_path):
    grey = Backbone(32, channels=1, **SHORT).fit(product(6, channels=1))
    assert grey.sample(2, seed=0).shape == (2, 1, 32, 32)
    grey.save_pretrained(tmp_path / "grey")
    back = Backbone.from_pretrained(tmp_path / "grey", device="cpu")
    assert back.channels == 1
    assert torch.equal(back.sample(2, seed=0), grey.sample(2, seed=0))


# -- sampling ---


def test_samples_are_float32_in_zero_to_one(fitted_backbone):
    images = fitted_backbone.sample(5, seed=0)
    assert images.shape == (5, 3, 32, 32)
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert 0 <= images.min() < images.max() <= 1
    assert fitted_backbone.sample(0).shape == (0, 3, 32, 32)


def test_same_seed_same_images_and_a_prefix_of_a_longer_draw(fitted_backbone):
    long = fitted_backbone.sample(20, seed=7)  # more than one batch
    assert torch.equal(fitted_backbone.sample(20, seed=7), long)
    torch.testing.assert_close(fitted_backbone.sample(3, seed=7), long[:3], atol=1e-4, rtol=0)
    torch.testing.assert_close(fitted_backbone.sample(1, seed=26), long[19:], atol=1e-4, rtol=0)
    assert not torch.allclose(fitted_backbone.sample(20, seed=8), long, atol=1e-3)


def test_without_seed_every_call_differs(fitted_backbone):
    assert not torch.equal(fitted_backbone.sample(1), fitted_backbone.sample(1))


def test_truncation_pulls_to_the_mean(fitted_backbone):
    # With all latents equal only the noise is left, which is the same for equal seeds.
    none = fitted_backbone.sample(4, seed=0, truncation_psi=0.0)
    half = fitted_backbone.sample(4, seed=0, truncation_psi=0.5)
    full = fitted_backbone.sample(4, seed=0)
    assert 0 < (half - none).abs().mean() < (full - none).abs().mean()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"n": -1}, "n"), ({"n": 1.5}, "n"), ({"n": True}, "n"), ({"n": None}, "n"),
        ({"n": 1, "truncation_psi": -0.1}, "truncation_psi"),
        ({"n": 1, "truncation_psi": float("nan")}, "truncation_psi"),
        ({"n": 1, "seed": -1}, "seed"), ({"n": 1, "seed": 0.5}, "seed"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_sampling_arguments_are_refused_in_one_sentence(fitted_backbone, arguments, name):
    with pytest.raises(ConfigError, match=f"^{name}:") as error:
        fitted_backbone.sample(**arguments)
    assert one_sentence(error)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 8), slice(0, 16)])
def test_latents_and_noise_of_a_seed_do_not_depend_on_the_batch(rows):
    seeds = sample_seeds(16, 40)
    assert torch.equal(latents(seeds[rows], 8, "object"), latents(seeds, 8, "object")[rows])
    whole, part = (SampleNoise(s)("b8.conv0", len(s), 8) for s in (seeds, seeds[rows]))
    assert torch.equal(part, whole[rows])
    assert len({row.numpy().tobytes() for row in whole}) == 16


# -- files ---


def test_round_trip_is_bit_exact(fitted_backbone, tmp_path):
    fitted_backbone.save_pretrained(tmp_path / "b")
    back = Backbone.from_pretrained(tmp_path / "b", device="cpu")
    assert equal_weights(back, fitted_backbone)
    assert back.digest() == fitted_backbone.digest()
    assert back.config_ == fitted_backbone.config_
    assert torch.equal(back.sample(3, seed=0), fitted_backbone.sample(3, seed=0))
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "config.json", "model.safetensors"
    ]  # fmt: skip


def test_saving_changes_nothing(fitted_backbone, tmp_path):
    before = copy.deepcopy(fitted_backbone.tensors())
    fitted_backbone.save_pretrained(tmp_path / "b")
    after = fitted_backbone.tensors()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_loaded_backbone_can_be_fitted_again(fitted_backbone, product, tiny, tmp_path):
    fitted_backbone.save_pretrained(tmp_path / "b")
    back = Backbone.from_pretrained(tmp_path / "b", device="cpu")
    back.set_params(**SHORT).fit(product(6))
    fresh = Backbone(32, **SHORT).fit(product(6))
    assert equal_weights(back, fresh)
    assert back.source_ is None  # no longer what that folder holds


def test_the_wrong_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError):
        Backbone.from_pretrained(tmp_path / "nothing", device="cpu")


# -- frozen ---


def test_frozen_stays_frozen(fitted_backbone, tmp_path):
    fitted_backbone.save_pretrained(tmp_path / "b")
    for backbone in (fitted_backbone, Backbone.from_pretrained(tmp_path / "b", device="cpu")):
        for mode in (True, False):
            assert backbone.train(mode) is backbone
            assert not any(module.training for module in backbone.modules())
            assert not any(p.requires_grad for p in backbone.parameters())
            assert sum(1 for _ in backbone.parameters()) > 20


def test_sampling_changes_no_byte(fitted_backbone):
    before = copy.deepcopy(fitted_backbone.tensors())
    assert any(name.endswith("w_avg") for name in before)
    fitted_backbone.train().sample(20, seed=0)
    after = fitted_backbone.tensors()
    assert all(torch.equal(before[k], after[k]) for k in before)


# -- side effects ---


def test_global_random_numbers_are_neither_used_nor_moved(product, tiny):
    def states():
        return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = states()
        backbone = Backbone(32, **SHORT).fit(product(12))
        results.append((backbone.digest(), backbone.sample(2, seed=0)))
        backbone.sample(2)
        after = states()
        assert torch.equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        assert before[2] == after[2]
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_nothing_is_written_without_run_dir(product, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    Backbone(32, **SHORT).fit(product(6)).sample(2)
    assert list(tmp_path.rglob("*")) == []


def test_run_dir_holds_history_sheets_and_resume_file(product, tiny, tmp_path):
    numbers = {**SHORT, "kimg": 0.04, "run_dir": tmp_path / "run"}
    backbone = Backbone(32, **numbers).fit(product(6))
    assert_run_folder(tmp_path / "run", backbone.history_)


@pytest.mark.parametrize("given", [{"seed": 3}, {"kimg": 2.0, "augment": "safe"}, {}], ids=str)
def test_repr_names_what_was_given(given):
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
    assert sorted(repr(Backbone(**given))[9:-1].split(", ")) == sorted(shown.split(", "))


def test_more_images_than_fit_into_memory_are_refused(fitted_backbone):
    with pytest.raises(
        ConfigError, match="^n: as many as fit into memory; got 1000000000000, "
    ) as e:
        fitted_backbone.sample(10**12)
    assert one_sentence(e)


# -- resuming ---


@pytest.fixture
def finished(product, tiny, tmp_path):
    """Numbers of a finished run, with its folder."""
    numbers = {**SHORT, "run_dir": tmp_path / "run"}
    Backbone(32, **numbers).fit(product(6))
    return numbers


@pytest.mark.parametrize(
    ("change", "said"),
    [({"kimg": 0.012}, "kimg"), ({"batch_size": 2}, "batch_size"), ({"seed": 1}, "seed"),
     ({"augment": "none"}, "augmentation")],
    ids=str,
)  # fmt: skip
def test_resume_with_other_numbers_is_refused(finished, product, change, said):
    other = Backbone(32, **{**finished, **change})
    with pytest.raises(WeightsError, match=f"resume: .*{said}.*another run_dir"):
        other.fit(product(6), resume=True)
    with pytest.raises(NotFittedError):  # and nothing half-made is left behind
        other.sample(1)


def test_resume_with_other_data_is_refused(finished, product):
    with pytest.raises(WeightsError, match="resume: the same data"):
        Backbone(32, **finished).fit(product(6, seed=5), resume=True)


def test_resume_takes_the_seed_of_the_run(finished, product):
    again = Backbone(32, **{**finished, "seed": None}).fit(product(6), resume=True)
    assert again.config_["training"]["seed"] == finished["seed"]
    assert again.config_["trained_kimg"] == 0.008


def test_resume_needs_a_run_dir(product):
    with pytest.raises(ConfigError, match=r"resume: needs the run_dir.*run_dir=\.\.\.") as error:
        Backbone(32, **SHORT).fit(product(6), resume=True)
    assert one_sentence(error)


def test_resume_without_a_run_begins_one(product, tiny, tmp_path):
    numbers = {**SHORT, "run_dir": tmp_path / "new"}
    begun = Backbone(32, **numbers).fit(product(6), resume=True)
    assert equal_weights(begun, Backbone(32, **SHORT).fit(product(6)))


def test_photos_are_no_run_folder(product, tmp_path):
    (tmp_path / "7.JPG").write_bytes(b"a photo")
    with pytest.raises(ConfigError, match=r"^run_dir: must be a folder without photos; .* 7\.JPG"):
        Backbone(32, **SHORT, run_dir=tmp_path).fit(product(6))
    assert [path.name for path in tmp_path.iterdir()] == ["7.JPG"]


def test_a_run_folder_belongs_to_one_run_at_a_time(finished, product):
    before = content(finished["run_dir"])
    with (
        held(finished["run_dir"], "x"),
        pytest.raises(ConfigError, match="^run_dir: a folder that no other run is using") as error,
    ):
        Backbone(32, **finished).fit(product(6))
    assert one_sentence(error)
    assert content(finished["run_dir"]) == before
    with held(finished["run_dir"], "x"), pytest.raises(ConfigError, match="no other run"):
        Backbone(32, **finished).fit(product(6), resume=True)  # before its state is read
    Backbone(32, **finished).fit(product(6))


def test_a_fit_that_comes_to_nothing_leaves_no_run_folder(product, tmp_path):
    with pytest.raises(DefectGenError):
        Backbone(32, **SHORT, run_dir=tmp_path / "run").fit("nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_resume_file_is_refused(finished, product):
    path = finished["run_dir"] / "resume.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DefectGenError, match=r"resume\.pt"):
        Backbone(32, **finished).fit(product(6), resume=True)


# -- the published preset ---


def test_preset_builds_its_published_networks_at_construction():
    backbone = Backbone(preset="dfmgan")
    counts = [sum(p.numel() for p in m.parameters()) for m in backbone.children()]
    assert counts == [23_191_522, 24_001_089]
    assert backbone.generator.config.resolution == 256
    assert backbone.resolution is None
    assert not any(p.requires_grad for p in backbone.parameters())


def test_preset_resolves_the_published_numbers():
    from defectgen.config import backbone_config, backbone_training

    shape = backbone_config(256, 3, "dfmgan")
    train = backbone_training(shape, preset="dfmgan", kimg=None, batch_size=None, seed=0)
    wanted = {
        "kimg": 3000.0, "warm_kimg": 0.0, "batch_size": 32, "learning_rate": 0.0025, "beta2": 0.99,
        "style_mixing": 0.9, "r1_gamma": 0.4096, "r1_interval": 16, "path_weight": 2.0,
        "path_interval": 4, "path_decay": 0.01, "ema_kimg": 10.0, "ema_rampup": 0.05,
        "ada_target": 0.6, "ada_kimg": 500.0, "ada_interval": 4, "ada_cap": None,
        "anchor_weight": 0.0,
    }  # fmt: skip
    found = train.to_dict()
    assert {k: found[k] for k in wanted} == pytest.approx(wanted)
    shape_wanted = {
        "z_dim": 512, "w_dim": 512, "mapping_layers": 2, "channel_base": 16384, "channel_max": 512,
        "minibatch_group": 4, "clamp": 256.0, "half_resolutions": 4,
    }  # fmt: skip
    assert {k: shape.to_dict()[k] for k in shape_wanted} == shape_wanted


def test_preset_trains(product, tiny):
    numbers = {**SHORT, "kimg": 0.02}  # five iterations: both lazy terms are due once
    backbone = Backbone(32, preset="dfmgan", **numbers).fit(product(6))
    assert backbone.config_["augment"]["policy"] == POLICIES["bgc"].to_dict()
    assert backbone.config_["data"]["shown"] == 6
    assert backbone.sample(1, seed=0).isfinite().all()
    assert {"r1/D", "path/length"} <= set().union(*backbone.history_)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_that_is_not_resumed_is_put_aside_whole(tmp_path, product, tiny, capsys):
    first = Backbone(32, augment="safe", run_dir=tmp_path, **{**SHORT, "verbose": 1})
    mine = {"notes.txt": b"mine", "sheet_000.png": b"a photo of a sheet"}
    (tmp_path / "notes.txt").write_bytes(b"mine")
    first.fit(product(8))
    (tmp_path / "sheet_000.png").write_bytes(b"a photo of a sheet")
    assert "now lies in" not in capsys.readouterr().err
    (tmp_path / "sheet_00009.00kimg.png").write_bytes(b"of the first run")
    before = {name: text for name, text in content(tmp_path).items() if name not in mine}
    for name in ("previous.run", "previous.run.2"):
        first.fit(product(8))
        assert f"now lies in {tmp_path / name}" in capsys.readouterr().err
        assert mine.items() <= content(tmp_path).items()
        assert {"resume.pt", "history.jsonl"} <= set(content(tmp_path / name))
    assert content(tmp_path / "previous.run") == before
    assert not list(tmp_path.glob("sheet_00009*"))


def test_a_start_that_came_to_nothing_puts_nothing_aside(tmp_path, product, tiny):
    """Killed before its first resume file, and begun anew with or without resume=True."""
    first = Backbone(32, augment="safe", run_dir=tmp_path, **SHORT)
    first.fit(product(8))
    first.fit(product(8))
    before = content(tmp_path / "previous.run")
    (tmp_path / "resume.pt").unlink()
    first.fit(product(8), resume=True)
    assert content(tmp_path / "previous.run") == before
    assert not (tmp_path / "previous.run.2").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"augment": 3}, "^augment: "),
        ({"augment": ["safe"]}, "^augment: "),
        ({"seed": -1}, "^seed: "),
        ({"device": "gpu"}, "^device: "),
        ({"verbose": "loud"}, "^verbose: must be an integer"),
        ({"device": 3.5}, "^device: a torch device such as cpu"),
        ({"device": "meta"}, r"^device: one that this torch can use; got 'meta' \(.+\); use cpu"),
        (
            {"device": "mps"},
            r"^device: one that this torch can use; got 'mps' \(.+64-bit .+; use c",
        ),
        ({"run_dir": ""}, "^run_dir: must name a folder; got ''"),
        ({"run_dir": 3}, "^run_dir: must be a text or a path; got 3 of type int"),
        ({"run_dir": "/dev/null"}, "^run_dir: "),
        ({"run_dir": "/dev/null/x"}, "^run_dir: "),
    ],
)
def test_what_is_wrong_is_said_before_a_photo_is_read(given, words):
    with pytest.raises(ConfigError, match=words):
        Backbone(32, **given).fit("nowhere")


def test_the_name_of_weights_is_a_text_or_a_path():
    for name in (3, None):
        with pytest.raises(ConfigError, match="^name: must be a text or a path"):
            Backbone.from_pretrained(name)


def test_a_config_without_its_entries_is_refused_in_one_sentence(tmp_path, fitted_backbone):
    fitted_backbone.save_pretrained(tmp_path / "b")
    path = tmp_path / "b" / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["augment"]
    path.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="^folder: every entry of config.json.*augment"):
        Backbone.from_pretrained(tmp_path / "b")


@pytest.mark.filterwarnings("ignore::defectgen.errors.DataWarning")
def test_one_good_image_is_learned_to_the_end(product, tiny):
    """Snapshots are judged by distances of patches, of which one image has many."""
    backbone = Backbone(32, kimg=0.032, batch_size=4, seed=0, device="cpu", verbose=0)
    backbone.fit(product(1))
    assert backbone.config_["trained_kimg"] == 0.032
    assert "score" in backbone.history_[-1]

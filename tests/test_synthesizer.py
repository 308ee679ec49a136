"""DefectSynthesizer: estimator manners, learning, sampling, and a backbone left as it was."""

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
    DefectSynthesizer,
    ImageError,
    MaskError,
    NotFittedError,
    WeightsError,
)
from defectgen.config import BackboneConfig, DefectConfig, TrainConfig
from defectgen.networks.defect import DefectBranch

pytestmark = pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning")
#: Two iterations of four images.
SHORT = {"kimg": 0.008, "batch_size": 4, "seed": 0, "device": "cpu", "verbose": 0}


def one_sentence(error):
    """The house form: "argument: rule; got value; do this"."""
    text = str(error.value)
    return ": " in text and "; got " in text and text.count("\n") == 0 and len(text) < 400


def equal_states(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture(scope="session")
def backbone_folder(fitted_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "backbone"
    fitted_backbone.save_pretrained(folder)
    return folder


# -- manners of an estimator ---


@pytest.mark.parametrize("given", [None, 3, ["a"]])
def test_what_is_no_backbone_is_refused(given, defects):
    with pytest.raises(ConfigError, match="^backbone: a Backbone, or the name") as error:
        DefectSynthesizer(given).fit(*defects(6))
    assert one_sentence(error)


def test_a_generator_is_one_of_torch(fitted_synth):
    for given in (3, np.random.default_rng(0)):
        with pytest.raises(ConfigError, match="^generator: a torch.Generator") as error:
            fitted_synth.sample(1, generator=given)
        assert one_sentence(error)


def test_constructor_stores_what_it_is_given(fitted_backbone, tmp_path):
    given = {
        "backbone": fitted_backbone, "preset": "dfmgan", "kimg": 3, "batch_size": 7,
        "first_resolution": 16, "precision": "bf16",
        "warm_start": True, "run_dir": tmp_path / "x", "seed": 9, "device": "cpu", "verbose": 2,
    }  # fmt: skip
    assert set(given) == set(inspect.signature(DefectSynthesizer).parameters)
    synth = DefectSynthesizer(**given)
    for name, value in given.items():
        assert getattr(synth, name) is value
    assert synth.get_params() == given
    assert not (tmp_path / "x").exists()


def test_constructor_does_not_look_at_its_arguments():
    synth = DefectSynthesizer("no/such/folder", kimg=-1, device="?")
    assert synth.backbone == "no/such/folder"


def test_set_params_returns_self_and_refuses_unknown_names(fitted_backbone):
    synth = DefectSynthesizer(fitted_backbone)
    assert synth.set_params(kimg=2.0, warm_start=True) is synth
    assert (synth.kimg, synth.warm_start) == (2.0, True)
    with pytest.raises(ConfigError, match="set_params: .*got 'augment'") as error:
        synth.set_params(augment="none")
    assert one_sentence(error)


def test_a_clone_shares_the_fitted_backbone(fitted_backbone):
    # What sklearn.base.clone calls; copying the backbone by its parameters would unfit it.
    twin = DefectSynthesizer(fitted_backbone, seed=3).__sklearn_clone__()
    assert twin.backbone is fitted_backbone
    assert twin.seed == 3


def test_sklearn_clone_gives_an_unfitted_twin(backbone_folder, defects, tiny):
    clone = pytest.importorskip("sklearn.base").clone
    synth = DefectSynthesizer(backbone_folder, **SHORT).fit(*defects(4))
    twin = clone(synth)
    assert twin.get_params() == synth.get_params()
    with pytest.raises(NotFittedError):
        twin.sample(1)
    assert torch.equal(twin.fit(*defects(4)).sample(2, seed=0), synth.sample(2, seed=0))


@pytest.mark.parametrize(
    "use",
    [
        lambda s, folder: s.sample(1),
        lambda s, folder: s.iter_samples(1),
        lambda s, folder: s.save_pretrained(folder / "x"),
    ],
    ids=["sample", "iter_samples", "save_pretrained"],
)
def test_unfitted_says_what_to_call(use, fitted_backbone, tmp_path):
    with pytest.raises(NotFittedError, match="fit") as error:
        use(DefectSynthesizer(fitted_backbone), tmp_path)
    assert one_sentence(error)
    assert list(tmp_path.iterdir()) == []


def test_unfitted_backbone_is_named(defects):
    with pytest.raises(NotFittedError, match="Backbone"):
        DefectSynthesizer(Backbone(32), **SHORT).fit(*defects(4))


def test_fit_returns_self_and_everything_decided_stands_in_config(fitted_backbone, defects, tiny):
    images, masks = defects(5)
    synth = DefectSynthesizer(fitted_backbone, **SHORT)
    assert synth.fit(images, masks) is synth
    config = synth.config_
    assert BackboneConfig.from_dict(config["backbone"]) == fitted_backbone.generator.config
    assert DefectConfig.from_dict(config["defect"]).first_resolution == 8  # a quarter
    train = TrainConfig.from_dict(config["training"])
    assert (train.kimg, train.batch_size, train.seed) == (0.008, 4, 0)
    assert config["augment"] == fitted_backbone.config_["augment"]["policy"]
    assert config["data"]["pairs"] == 5
    assert config["data"]["mask_area"] == pytest.approx(float(masks.float().mean()))
    assert config["trained_kimg"] == 0.008
    json.dumps(config, allow_nan=False)
    assert len(synth.history_) == 2
    assert synth.get_params()["kimg"] == 0.008


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "stylegan"}, {"kimg": 0}, {"kimg": "1"}, {"batch_size": 0},
        {"batch_size": 2.0}, {"device": "tpu9"}, {"seed": -1}, {"seed": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_parameters_are_refused_in_one_sentence(wrong, fitted_backbone, defects, tiny):
    (name,) = wrong
    synth = DefectSynthesizer(fitted_backbone, **SHORT).set_params(**wrong)
    with pytest.raises(ConfigError, match=f"^{name}:") as error:
        synth.fit(*defects(4))
    assert one_sentence(error)
    assert not hasattr(synth, "branch_")


def test_numbers_of_numpy_serve_as_numbers(fitted_backbone, defects, tiny, tmp_path):
    numbers = {"kimg": np.float64(0.008), "batch_size": np.int64(4), "seed": np.int64(0)}
    given = {**SHORT, **numbers, "run_dir": tmp_path / "run"}
    synth = DefectSynthesizer(fitted_backbone, **given).fit(*defects(4))
    synth.save_pretrained(tmp_path / "saved")
    assert (
        DefectSynthesizer.from_pretrained(tmp_path / "saved", device="cpu").sample(1).shape[0] == 1
    )


def test_pairs_that_do_not_fit_leave_an_earlier_fit_alone(fitted_synth, defects):
    synth = copy.copy(fitted_synth)
    images, masks = defects(4)
    with pytest.raises((ImageError, MaskError, ConfigError)):
        synth.fit(images, masks[:3])
    with pytest.raises(MaskError):
        synth.fit(images, torch.zeros_like(masks))
    assert synth.branch_ is fitted_synth.branch_
    assert synth.config_ is fitted_synth.config_


def everything(synth, n, **arguments):
    return synth.sample(n, return_masks=True, return_normals=True, **arguments)


# -- forgetting and continuing ---


def test_fit_forgets_the_fit_before(fitted_backbone, defects, tiny):
    fresh = DefectSynthesizer(fitted_backbone, **SHORT).fit(*defects(5))
    again = DefectSynthesizer(fitted_backbone, **SHORT).fit(*defects(5, seed=8)).fit(*defects(5))
    assert equal_states(again.branch_, fresh.branch_)
    assert equal_states(again.matching_, fresh.matching_)
    assert equal_states(again.discriminator_, fresh.discriminator_)
    assert again.config_ == fresh.config_
    assert again.history_ == fresh.history_


def test_a_backbone_fitted_again_leaves_the_synthesizer_as_it_was(product, defects, tiny, tmp_path):
    backbone = Backbone(32, **SHORT).fit(product(6))
    synth = DefectSynthesizer(backbone, warm_start=True, **SHORT).fit(*defects(4))
    before = synth.sample(2, seed=0)
    backbone.set_params(seed=5).fit(product(6))
    assert torch.equal(synth.sample(2, seed=0), before)
    synth.save_pretrained(tmp_path / "s")
    assert torch.equal(DefectSynthesizer.from_pretrained(tmp_path / "s").sample(2, seed=0), before)
    with pytest.raises(ConfigError, match="warm_start: the backbone whose weights") as error:
        synth.fit(*defects(4))
    assert one_sentence(error)


def test_history_of_the_reconstruction_has_mask_areas(fitted_backbone, defects, tiny):
    synth = DefectSynthesizer(fitted_backbone, **SHORT).fit(*defects(4))
    first = synth.history_[0]
    assert "loss/G" not in first
    assert 0 <= first["area/fake"] <= 1
    assert first["area/real"] == pytest.approx(synth.config_["data"]["mask_area"], rel=0.5)


@pytest.mark.parametrize(("kimg", "images"), [(3000.0, 1000), (50.0, 500), (0.1, 4)])
def test_ticks_are_a_hundredth_of_the_run_but_never_days(
    fitted_backbone, defects, tiny, monkeypatch, kimg, images
):
    import defectgen.estimator

    asked = []
    monkeypatch.setattr(
        defectgen.estimator, "run", lambda *_, tick_images, judge: asked.append(tick_images)
    )
    DefectSynthesizer(fitted_backbone, **{**SHORT, "kimg": kimg}).fit(*defects(4))
    assert asked == [images]


def test_first_resolution_is_where_the_branch_begins(fitted_backbone, defects, tiny, tmp_path):
    synth = DefectSynthesizer(fitted_backbone, first_resolution=16, run_dir=tmp_path, **SHORT)
    synth.fit(*defects(5))
    assert synth.branch_.resolutions == (16, 32)
    synth.set_params(first_resolution=8)
    with pytest.raises(WeightsError, match="first_resolution as when the run began; got 8 now, 16"):
        synth.fit(*defects(5), resume=True)
    synth.set_params(warm_start=True, run_dir=None)
    with pytest.raises(ConfigError, match="first_resolution: None or 16") as error:
        synth.fit(*defects(5))
    assert one_sentence(error)
    synth.set_params(first_resolution=None).fit(*defects(5))
    assert synth.branch_.resolutions == (16, 32)


@pytest.mark.parametrize("first", [4, 12, 64, 16.5, True])
def test_first_resolution_outside_its_rule_is_refused(fitted_backbone, defects, first):
    with pytest.raises(ConfigError, match="first_resolution") as error:
        DefectSynthesizer(fitted_backbone, first_resolution=first, **SHORT).fit(*defects(4))
    assert one_sentence(error)


@pytest.mark.parametrize(
    ("layout", "bend"), [("aligned", 0.015), ("texture", 0.015), ("free", 0.04), (None, 0.015)]
)
def test_parts_of_which_no_two_are_alike_have_defects_bent_farther(
    fitted_backbone, defects, layout, bend
):
    backbone = copy.copy(fitted_backbone)
    data = {**backbone.config_["data"], "layout": layout}
    if layout is None:  # of format 1
        del data["layout"]
    backbone.config_ = {**backbone.config_, "data": data}
    synth = DefectSynthesizer(backbone, **SHORT).fit(*defects(5))
    assert synth.config_["defect"]["bend"] == bend


def test_warm_start_continues_with_what_was_learned(fitted_backbone, defects, tiny, monkeypatch):
    import defectgen.synthesizer as module

    begun = []
    build = module.build_task
    monkeypatch.setattr(module, "build_task", lambda *a: begun.append(build(*a)) or begun[-1])
    synth = DefectSynthesizer(fitted_backbone, warm_start=True, **SHORT).fit(*defects(5))
    earlier = synth.branch_
    first = {k: v.clone() for k, v in earlier.state_dict().items()}
    codes = {k: v.clone() for k, v in synth.codes_.items()}
    begun.clear()

    def before(*args):
        begun.append(build(*args))
        start = begun[-1].branch.state_dict()
        assert all(torch.equal(start[k], first[k]) for k in first)
        assert all(torch.equal(begun[-1].codes()[k], codes[k]) for k in codes)
        return begun[-1]

    monkeypatch.setattr(module, "build_task", before)
    synth.fit(*defects(5))
    assert len(begun) == 1
    assert synth.config_["trained_kimg"] == pytest.approx(0.016)
    assert not all(torch.equal(v, first[k]) for k, v in synth.branch_.state_dict().items())
    # A copy was trained: had the fit failed, the earlier branch would still be whole.
    assert all(torch.equal(v, first[k]) for k, v in earlier.state_dict().items())


def test_warm_start_takes_other_pairs_too(fitted_backbone, defects, tiny):
    synth = DefectSynthesizer(fitted_backbone, warm_start=True, **SHORT).fit(*defects(5))
    synth.fit(*defects(7, seed=4))
    assert synth.config_["data"]["pairs"] == 7
    assert synth.sample(1, seed=0).isfinite().all()


def test_warm_start_goes_on_from_a_saved_branch(fitted_synth, defects, tiny, tmp_path):
    fitted_synth.save_pretrained(tmp_path / "s")
    synth = DefectSynthesizer.from_pretrained(tmp_path / "s", device="cpu")
    synth.set_params(warm_start=True, **SHORT).fit(*defects(6))
    assert synth.config_["trained_kimg"] == pytest.approx(0.064 + 0.008)


# -- input ---


def test_equal_pixels_give_equal_branches_whatever_they_come_in(
    fitted_backbone, defects, tiny, tmp_path
):
    images, masks = defects(4)
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    grey = [mask[0].numpy().astype(np.uint8) * 255 for mask in masks]
    folders = tmp_path / "images", tmp_path / "masks"
    for folder in folders:
        folder.mkdir()
    for k, (image, mask) in enumerate(zip(arrays, grey, strict=True)):
        Image.fromarray(image).save(folders[0] / f"{k:03d}.png")
        Image.fromarray(mask).save(folders[1] / f"{k:03d}_mask.png")
    pil = [Image.fromarray(a) for a in arrays], [Image.fromarray(m) for m in grey]
    forms = {
        "uint8 and bool tensor": (images, masks),
        "float tensors": (images.float() / 255, masks.float()),
        "arrays": (arrays, grey),
        "PIL": pil,
        "paths": tuple(sorted(folder.iterdir()) for folder in folders),
        "folders": folders,
    }
    results = {k: DefectSynthesizer(fitted_backbone, **SHORT).fit(*v) for k, v in forms.items()}
    wanted = results["uint8 and bool tensor"]
    for name, found in results.items():
        assert equal_states(found.branch_, wanted.branch_), name
        assert found.config_["data"] == wanted.config_["data"], name


def test_grey_from_end_to_end(product, defects, tiny, tmp_path):
    grey = Backbone(32, channels=1, augment="safe", **SHORT).fit(product(6, channels=1))
    synth = DefectSynthesizer(grey, **SHORT).fit(*defects(4, channels=1))
    synth.save_pretrained(tmp_path / "grey")
    back = DefectSynthesizer.from_pretrained(tmp_path / "grey", device="cpu")
    for one in (synth, back):
        images, masks, normals = one.sample(3, return_masks=True, return_normals=True, seed=0)
        assert images.shape == normals.shape == (3, 1, 32, 32)
        assert masks.shape == (3, 1, 32, 32)
    assert torch.equal(synth.sample(3, seed=0), back.sample(3, seed=0))


# -- the backbone stays what it is ---


def test_fit_changes_no_byte_of_the_backbone(fitted_backbone, defects, tiny):
    backbone = copy.deepcopy(fitted_backbone)
    before, digest = copy.deepcopy(backbone.tensors()), backbone.digest()
    assert any(name.endswith("w_avg") for name in before)
    synth = DefectSynthesizer(backbone, **{**SHORT, "kimg": 0.032})
    synth.fit(*defects(4)).sample(3)
    assert synth.backbone_.fitted() is backbone.fitted()
    assert backbone.digest() == digest
    after = backbone.tensors()
    assert list(after) == list(before)
    for name in before:
        assert after[name].numpy().tobytes() == before[name].numpy().tobytes(), name
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in backbone.modules())
    assert all(p.grad is None for p in backbone.parameters())


def test_published_preset_leaves_the_backbone_alone_too(fitted_backbone, defects, tiny):
    digest = fitted_backbone.digest()
    synth = DefectSynthesizer(fitted_backbone, preset="dfmgan", **{**SHORT, "kimg": 0.02})
    synth.fit(*defects(4))
    assert fitted_backbone.digest() == digest
    assert synth.config_["defect"]["gate"] == "hard"
    assert {"loss/mode_seeking", "path/length", "r1/D", "r1/D_match"} <= set().union(
        *synth.history_
    )


# -- side effects ---


def test_global_random_numbers_are_neither_used_nor_moved(fitted_backbone, defects, tiny):
    def states():
        return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = states()
        synth = DefectSynthesizer(fitted_backbone, **SHORT).fit(*defects(4))
        results.append(everything(synth, 3, seed=0))
        synth.sample(2)
        after = states()
        assert torch.equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        assert before[2] == after[2]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_nothing_is_written_without_run_dir(fitted_backbone, defects, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    DefectSynthesizer(fitted_backbone, **SHORT).fit(*defects(4)).sample(2)
    assert list(tmp_path.rglob("*")) == []


def test_run_dir_holds_history_sheets_and_resume_file(fitted_backbone, defects, tiny, tmp_path):
    numbers = {**SHORT, "kimg": 0.04, "run_dir": tmp_path / "run"}
    synth = DefectSynthesizer(fitted_backbone, **numbers).fit(*defects(4))
    assert_run_folder(tmp_path / "run", synth.history_)


# -- resuming ---


@pytest.fixture
def finished(fitted_backbone, defects, tiny, tmp_path):
    """Numbers of a finished run, with its folder."""
    numbers = {**SHORT, "run_dir": tmp_path / "run"}
    DefectSynthesizer(fitted_backbone, **numbers).fit(*defects(4))
    return numbers


@pytest.mark.parametrize(
    ("change", "said"),
    [({"kimg": 0.012}, "kimg"), ({"batch_size": 2}, "batch_size"), ({"seed": 1}, "seed")],
    ids=str,
)
def test_resume_with_other_numbers_is_refused(finished, fitted_backbone, defects, change, said):
    other = DefectSynthesizer(fitted_backbone, **{**finished, **change})
    with pytest.raises(WeightsError, match=f"resume: .*{said}.*another run_dir"):
        other.fit(*defects(4), resume=True)
    with pytest.raises(NotFittedError):  # and nothing half-made is left behind
        other.sample(1)


def test_resume_with_other_pairs_is_refused(finished, fitted_backbone, defects):
    images, masks = defects(4)
    for other in (defects(4, seed=9), (images, masks.roll(1, dims=3))):
        with pytest.raises(WeightsError, match="resume: the same data"):
            DefectSynthesizer(fitted_backbone, **finished).fit(*other, resume=True)


def test_resume_on_another_backbone_is_refused(finished, fitted_backbone, defects):
    other = copy.deepcopy(fitted_backbone)
    other.generator.mapping.w_avg += 1
    with pytest.raises(WeightsError, match="resume: the same backbone"):
        DefectSynthesizer(other, **finished).fit(*defects(4), resume=True)


def test_resume_with_defects_placed_otherwise_is_refused(
    finished, fitted_backbone, defects, monkeypatch
):
    for name in ("BEND", "FREE_BEND"):
        monkeypatch.setattr(f"defectgen.defect_fit.{name}", 0.02)
    with pytest.raises(WeightsError, match=r"resume: the same placement .*bends of 0\.02.* then"):
        DefectSynthesizer(fitted_backbone, **finished).fit(*defects(4), resume=True)


def test_resume_of_a_run_of_the_other_kind_is_refused(finished, product):
    with pytest.raises(WeightsError, match="give each object its own run_dir"):
        Backbone(32, **finished).fit(product(6), resume=True)


def test_resume_needs_a_run_dir(fitted_backbone, defects):
    with pytest.raises(ConfigError, match="resume: needs the run_dir"):
        DefectSynthesizer(fitted_backbone, **SHORT).fit(*defects(4), resume=True)


@pytest.mark.parametrize("warm_start", [False, True])
def test_interrupted_fit_goes_on_in_the_same_object(
    fitted_backbone, defects, tiny, tmp_path, monkeypatch, warm_start
):
    from defectgen.training.callbacks import RunFolder

    numbers = {**SHORT, "kimg": 0.032, "warm_start": warm_start}
    whole = DefectSynthesizer(fitted_backbone, **numbers).fit(*defects(4))

    def stop(self, state):
        if state.iteration == 5:
            raise KeyboardInterrupt

    synth = DefectSynthesizer(fitted_backbone, run_dir=tmp_path / "run", **numbers)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "on_iteration", stop)
        with pytest.raises(KeyboardInterrupt):
            synth.fit(*defects(4))
    assert synth.sample(1, seed=0).isfinite().all()  # what was learned so far can be used
    assert synth.config_["trained_kimg"] == pytest.approx(0.02)
    synth.fit(*defects(4), resume=True)
    assert equal_states(synth.branch_, whole.branch_)
    assert synth.config_ == whole.config_


# -- the published preset ---


def test_preset_renders_no_backgrounds_for_codes_it_does_not_use(
    fitted_backbone, defects, tiny, monkeypatch
):
    import defectgen.training.defect_start as start

    def never(*_):
        raise AssertionError("256 renders for nothing")

    with monkeypatch.context() as patch:
        patch.setattr(start, "object_codes", never)
        synth = DefectSynthesizer(fitted_backbone, preset="dfmgan", **SHORT).fit(*defects(4))
    assert synth.codes_ == {}
    synth.set_params(warm_start=True).fit(*defects(4))  # goes on


@pytest.mark.parametrize("presets", [(None, "dfmgan"), ("dfmgan", None)], ids=str)
def test_warm_start_with_another_preset_is_refused(fitted_backbone, defects, tiny, presets):
    first, second = presets
    synth = DefectSynthesizer(fitted_backbone, preset=first, warm_start=True, **SHORT)
    synth.fit(*defects(4)).set_params(preset=second)
    with pytest.raises(ConfigError, match="^warm_start: the preset") as error:
        synth.fit(*defects(4))
    assert one_sentence(error)


def test_preset_resolves_the_published_numbers_and_widths():
    from defectgen.config import backbone_config, defect_config, defect_training
    from defectgen.training.defect_start import new_matching

    shape = backbone_config(256, 3, "dfmgan")
    train = defect_training(
        shape, preset="dfmgan", kimg=None, batch_size=None, seed=0, warm=True
    ).to_dict()
    wanted = {
        "kimg": 400.0, "warm_kimg": 0.0, "batch_size": 32, "r1_gamma": 0.4096, "r1_interval": 16,
        "path_interval": 4, "path_weight": 2.0, "ema_kimg": 10.0, "ema_rampup": None,
        "ada_kimg": 100.0, "ada_cap": None, "match_weight": 1.0, "match_augment": False,
        "mode_seeking_weight": 0.1, "anchor_weight": 0.0,
    }  # fmt: skip
    assert {k: train[k] for k in wanted} == pytest.approx(wanted)
    assert train["mode_seeking_epsilon"] > 0  # the method, not its bugs
    defect = defect_config(shape, "dfmgan")
    assert (defect.first_resolution, defect.gate, defect.mask_steepness) == (64, "hard", 10.0)
    branch, matching = DefectBranch(shape, defect), new_matching(shape, defect)
    counts = [sum(p.numel() for p in network.parameters()) for network in (branch, matching)]
    assert counts == [3_669_703, 1_502_113]

"""The table of scores: what stands in it, that it repeats, and that it knows better from worse."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from defectgen import ConfigError, DefectSynthesizer, NotFittedError, __version__
from defectgen.data.images import load_images
from defectgen.errors import DataWarning
from defectgen.evaluation import _Table, evaluate_backbone
from defectgen.metrics.report import PROTOCOLS, SETS
from defectgen.real_pairs import RealPairs


class Pixels:
    """Features that cost nothing: the picture at 4 x 4."""

    name = "pixels"

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


class Edges:
    """A perceptual distance that costs nothing."""

    name = "edges"

    def features(self, images):
        return [torch.nn.functional.avg_pool2d(images, 2)]

    def distance(self, a, b):
        return (self.features(a)[0] - self.features(b)[0]).square().sum(1).mean((1, 2))


CHEAP = {"extractor": Pixels(), "perceptual": Edges(), "n": 12}


@pytest.fixture(scope="module")
def found(fitted_synth, defects):
    return fitted_synth.evaluate(*defects(8, seed=3), training=defects(6), **CHEAP)


def test_every_score_has_a_protocol_and_known_columns(found):
    bare = {name.partition("@")[0] for name in found.scores}
    assert bare <= set(PROTOCOLS)
    assert {"area", "swd", "kid", "kid_window", "memorization", "ic_lpips"} <= bare
    assert {"kid@pixels", "memorization@pixels", "masked_diversity@edges"} <= set(found.scores)
    assert all(set(columns) <= set(SETS) for columns in found.scores.values())
    assert set(found.scores["kid@pixels"]) == {"generated", "copy-paste", "good twins"}
    # What is good by construction, and what is copied, tell how to read the share of copies.
    assert set(found.scores["memorization@pixels"]) == set(SETS)
    assert set(found.errors["kid@pixels"]) == set(found.scores["kid@pixels"])


def test_the_table_shows_scores_errors_protocols_and_settings(found):
    text = found.table()
    for name in found.scores:
        assert f"\n| {name} |" in text
        assert f"- **{name.partition('@')[0]}**: " in text
    value, error = (x["kid@pixels"]["generated"] for x in (found.scores, found.errors))
    assert f"{value:.4g} ± {error:.2g}" in text
    assert "samples 12, seed 0, real 8, training 6, data sha256:" in text
    assert found.settings["model"].startswith("sha256:")
    assert (found.settings["precision"], found.settings["defectgen"]) == ("fp32", __version__)
    assert json.loads(json.dumps(found.to_dict()))["settings"]["real"] == 8


def test_the_same_arguments_give_the_same_numbers(found, fitted_synth, defects):
    again = fitted_synth.evaluate(*defects(8, seed=3), training=defects(6), **CHEAP)
    assert again == found
    other = fitted_synth.evaluate(*defects(8, seed=3), training=defects(6), **CHEAP, seed=50)
    assert other.scores["swd"] != found.scores["swd"]


def test_defects_are_nearer_to_real_ones_than_goods(defects, product):
    """The yardsticks are in the right order: other real defects beat parts without any."""
    real, known = (
        RealPairs(*defects(12, seed=seed), 32, 3, ("real_imgs", "real_masks")) for seed in (3, 4)
    )
    images, masks = defects(12, seed=5)
    goods = product(12, seed=6).float() / 255
    table = _Table(real, {"generated": (images.float() / 255, masks, goods)}, known)
    table.features(Pixels())
    table.diversity(Edges())
    table.masks()
    for name in ("kid@pixels", "kid_window@pixels"):
        assert table.scores[name]["generated"] < table.scores[name]["good twins"]
    assert table.scores["area"]["generated"] == pytest.approx(table.scores["area"]["real"])
    assert table.scores["position_overlap"]["generated"] == pytest.approx(1)
    assert "real" not in table.scores["area_ratio"]
    copied = _Table(real, {"generated": (known.images, known.masks, goods)}, known)
    copied.features(Pixels())
    assert copied.scores["memorization@pixels"]["generated"] == 1


def test_pastes_stand_on_the_good_twins(found):
    assert found.scores["change_iou"]["copy-paste"] > 0.9
    assert found.scores["drift_far"]["copy-paste"] == 0


def test_without_training_images_their_scores_are_left_out(fitted_synth, defects):
    found = fitted_synth.evaluate(*defects(8, seed=3), **CHEAP)
    bare = {name.partition("@")[0] for name in found.scores}
    assert not bare & {"memorization", "ic_lpips"}
    assert all("copy-paste" not in columns for columns in found.scores.values())


def test_without_extras_what_needs_none_is_left(fitted_synth, defects, monkeypatch):
    import defectgen.evaluation as module

    def missing():
        raise ConfigError("extractor: needs a package; got none; install it")

    said = []
    monkeypatch.setattr(module, "find_extractor", missing)
    monkeypatch.setattr(module, "st_lpips", missing)
    monkeypatch.setattr(module, "say", lambda text, verbose: said.append(text))
    found = fitted_synth.evaluate(*defects(8, seed=3), n=6)
    assert not any("@" in name for name in found.scores)
    assert len(said) == 2
    assert all("left out" in text and "install it" in text for text in said)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n": 5}, "^n: "),
        ({"extractor": "lite1"}, "^extractor: 'auto', None, or an object"),
        ({"perceptual": "vgg"}, "^perceptual: 'auto', None, or an object"),
    ],
)
def test_bad_arguments_are_named(fitted_synth, defects, bad, message):
    with pytest.raises(ConfigError, match=message):
        fitted_synth.evaluate(*defects(8, seed=3), **{**CHEAP, **bad})


def test_pairs_that_are_not_what_they_are_taken_for(fitted_synth, defects):
    with pytest.warns(DataWarning, match="^real_imgs: defects that were not trained on; got the p"):
        fitted_synth.evaluate(*defects(6), **CHEAP)
    with pytest.warns(
        DataWarning, match="^training: the pairs of the fit, in their order; got others"
    ):
        fitted_synth.evaluate(*defects(8, seed=3), training=defects(6, seed=4), **CHEAP)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted_synth.evaluate(*defects(8, seed=3), training=defects(6), **CHEAP)


def test_an_object_that_was_never_fitted_says_so(fitted_backbone, defects):
    with pytest.raises(NotFittedError):
        DefectSynthesizer(fitted_backbone).evaluate(*defects(8))


def test_a_backbone_beside_good_photos(fitted_backbone, product):
    def scores(images, **options):
        goods = load_images(images, resolution=32, channels=3)
        return evaluate_backbone(fitted_backbone, goods, Pixels(), n=12, **options)

    own, dark = scores(product(12)), scores(product(12) // 4)
    name = "kid@pixels"
    assert own == scores(product(12))
    assert own.scores[name] != scores(product(12), seed=50).scores[name]
    assert own.scores[name]["generated"] < dark.scores[name]["generated"]
    assert set(own.scores["swd"]) == {"real", "generated"}
    assert own.errors[name]["generated"] > 0
    assert own.settings["model"] == fitted_backbone.digest()
    assert own.settings["real"] == "12 good photos of the training"
    assert dark.settings["real"] == "12 good photos"
    assert "kernel distance x 1000" in own.table()
    with pytest.raises(ConfigError, match="^n"):
        evaluate_backbone(fitted_backbone, None, Pixels(), n=2)

"""The downstream test on a user's photos: what is compared, what is said, and what is refused."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from PIL import Image

from defectgen import ConfigError, DefectSynthesizer, ImageError, NotFittedError, __version__
from defectgen.downstream import Downstream, arms, detector, downstream_test, trial
from defectgen.downstream.report import verdict
from defectgen.errors import DataWarning, MaskError

QUICK = {"n": 6, "repeats": 2, "steps": 1}


@pytest.fixture(scope="module")
def given(defects, product):
    """The pairs of the fit, others, and good parts that differ."""
    return {
        "training": defects(6),
        "test": defects(5, seed=3),
        "goods": product(10),
        "test_goods": product(5, seed=7),
    }


@pytest.fixture(scope="module")
def found(fitted_synth, given):
    return downstream_test(fitted_synth, **given, **QUICK)


# -- what is found --


def test_every_arm_and_difference_is_there(found, given, fitted_synth):
    assert set(found.arms) == set(arms.ARMS)
    assert all(len(arm["ap"]) == 2 for arm in found.arms.values())
    assert set(found.differences) == {f"{one} - {other}" for one, other in arms.DIFFERENCES}
    masks = given["test"][1]
    share = float((masks > 0).float().mean()) * 5 / 10
    expected = {"samples": 6, "seed": 0, "goods": 5, "defects": 5, "good_images": 10}
    expected |= {"training": 6, "base_rate": pytest.approx(share, abs=1e-6)}
    expected |= {"backbone": fitted_synth.backbone_digest_, "defectgen": __version__}
    assert {key: found.settings[key] for key in expected} == expected
    assert "2 times per arm, 1 steps" in found.protocol
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_the_same_arguments_find_the_same(found, fitted_synth, given):
    again = downstream_test(fitted_synth, **given, **QUICK)
    assert (again.arms, again.differences) == (found.arms, found.differences)


def test_each_arm_learns_from_its_sources(fitted_synth, given, monkeypatch):
    """Samples, pasted copies and real pairs go to the arms that are named for them."""
    shown, seen = [], []

    def train(sources, goods, pipe, seed, steps, device):
        shown.append(([some.images for some in sources], goods, seed, steps))
        seen.append(([some.masks for some in sources], pipe.policy))
        return detector.UNet(3)

    monkeypatch.setattr(arms, "train", train)
    downstream_test(fitted_synth, **given, **{**QUICK, "seed": 40})
    images, masks = fitted_synth.sample(6, return_masks=True, seed=40)
    real = given["training"][0].float() / 255
    assert len(shown) == 8
    assert [seed for _, _, seed, _ in shown] == [0] * 4 + [1] * 4
    by_name = dict(zip(arms.ARMS, shown, strict=False))
    for name, count in (("real", 1), ("generated", 1), ("real + generated", 2)):
        sources, goods, _, steps = by_name[name]
        assert (len(sources), steps) == (count, 1)
        assert torch.equal(goods, given["goods"].float() / 255)
        if "real" in name:
            assert torch.equal(sources[0], real)
        if "generated" in name:
            assert torch.allclose(sources[-1], images[masks.flatten(1).any(1)])
    full = masks.flatten(1).any(1)
    _, (drawn,), (own, both), (_, places) = [kinds for kinds, _ in seen[:4]]
    assert torch.equal(own, given["training"][1] > 0)
    assert torch.equal(drawn, masks[full])
    assert torch.equal(both, drawn)
    assert len(places) == 6
    for place in places:  # those of the training pairs
        assert any(torch.equal(place, mask) for mask in own)
    policy = fitted_synth.backbone_.config_["augment"]["policy"]
    assert all(pipe.to_dict() == policy for _, pipe in seen)
    pasted = by_name["real + copy-paste"][0][1]
    goods = given["goods"].float() / 255
    # Outside of the mask each is one of the good photos.
    apart = (pasted[:, None] != goods[None]).any(2).flatten(2).float().mean(2).amin(1)
    assert 0 < apart.max() < 0.5


def test_every_fifth_good_is_kept_where_there_are_no_others(
    fitted_synth, given, product, monkeypatch
):
    kept, many = [], product(25)

    def run(sources, goods, test, test_goods, *more):
        kept.extend((goods, test_goods))
        raise ZeroDivisionError

    monkeypatch.setattr(trial, "run", run)
    with pytest.raises(ZeroDivisionError):
        downstream_test(fitted_synth, **{**given, "goods": many, "test_goods": None}, **QUICK)
    goods = many.float() / 255
    assert torch.equal(kept[1], goods[4::5])
    assert torch.equal(kept[0], goods[[k for k in range(25) if k % 5 != 4]])


# -- what is said --


def report(low, high):
    gain = {"mean": (low + high) / 2, "low": low, "high": high}
    return Downstream(
        arms={name: {"ap": [0.5, 0.25], "mean": 0.375} for name in arms.ARMS},
        differences={"real + generated - real": gain},
        settings={"seed": 3},
        protocol="So it was.",
    )


def test_the_table_shows_scores_intervals_and_what_they_say():
    text = report(0.01, 0.2).table()
    assert "| real + generated | 37.5 | 50.0, 25.0 |" in text
    assert "| real + generated against real | +10.5 | +1.0 to +20.0 | better |" in text
    assert text.endswith("So it was.\n\nSettings: seed 3.")


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.2, "cannot be told"), (0, 0, None)],
)
def test_better_and_worse_leave_out_zero(low, high, word):
    assert verdict(report(low, high).differences["real + generated - real"]) == (
        word or "cannot be told"
    )


@pytest.mark.filterwarnings("ignore::defectgen.errors.DataWarning")
def test_a_test_that_shows_what_was_learned_is_said_to(fitted_synth, given, monkeypatch):
    monkeypatch.setattr(trial, "run", lambda *more: 1 / 0)
    both = zip(given["test"], given["training"], strict=True)
    mixed = tuple(torch.cat(pair) for pair in both)
    for change, words in (
        ({"test": given["training"]}, "test: defects that were not trained on; got the pairs"),
        ({"test": mixed}, "test: photos that serve for nothing else here; got 6 of 11"),
        ({"test_goods": given["goods"][:5]}, "test_goods: photos .*; got 5 of 5"),
        ({"test_goods": given["test"][0]}, "test_goods: photos .*; got 5 of 5"),
        ({"goods": given["test"][0]}, "^goods: photos .*; got 5 of 5"),
        ({"test_goods": given["test_goods"][:4]}, "test_goods: at least 5; got 4"),
        ({"test": tuple(some[:4] for some in given["test"])}, "test: at least 5; got 4"),
        ({"training": given["test"]}, "training: the pairs of the fit"),
    ):
        with pytest.warns(DataWarning, match=words) as told, pytest.raises(ZeroDivisionError):
            downstream_test(fitted_synth, **{**given, **change}, **QUICK)
        assert all(one.filename == __file__ for one in told)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError):
            downstream_test(fitted_synth, **given, **QUICK)


@pytest.mark.parametrize(("name", "value"), [("n", 0), ("repeats", 1), ("steps", 0), ("seed", -1)])
def test_numbers_out_of_bounds_are_refused(fitted_synth, given, name, value):
    with pytest.raises(ConfigError, match=f"^{name}: .*got {value}"):
        downstream_test(fitted_synth, **given, **{**QUICK, name: value})


@pytest.mark.parametrize("name", ["training", "test", "goods", "test_goods"])
def test_a_folder_that_is_missing_is_told_by_its_argument(fitted_synth, given, name, tmp_path):
    path = str(tmp_path / "nothing")
    wrong = {name: path if "goods" in name else (path, str(tmp_path))}
    with pytest.raises(ImageError, match=f"^{name}: .*nothing"):
        downstream_test(fitted_synth, **{**given, **wrong}, **QUICK)


@pytest.mark.parametrize("name", ["training", "test"])
def test_masks_that_are_missing_are_told_by_their_argument(fitted_synth, given, name, tmp_path):
    images, masks = given[name]
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
    for wrong in (
        (tmp_path, tmp_path / "nothing"),
        (tmp_path, masks),
        (images, None),
        (images, masks[1:]),
        (images, masks[:, :, None]),
    ):
        with pytest.raises(MaskError, match=f"^{name}: "):
            downstream_test(fitted_synth, **{**given, name: wrong}, **QUICK)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"training": None}, "NoneType"), ({"test": "photos"}, "str"), ({"synth": "demo"}, "str")],
)
def test_what_is_no_pair_or_no_synthesizer_is_refused(fitted_synth, given, wrong, said):
    everything = {"synth": fitted_synth, **given, **wrong}
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}: .*got {said}; "):
        downstream_test(**everything, **QUICK)


def test_too_few_goods_and_an_unfitted_object_are_refused(fitted_synth, given, product):
    few = {**given, "goods": product(4), "test_goods": None}
    with pytest.raises(ConfigError, match=r"^goods: at least 5, .*got 4; pass more"):
        downstream_test(fitted_synth, **few, **QUICK)
    with pytest.raises(NotFittedError):
        downstream_test(DefectSynthesizer(fitted_synth.backbone_), **given, **QUICK)

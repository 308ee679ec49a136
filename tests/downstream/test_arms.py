"""The detector of the downstream test: its score, the interval, and a training like no other."""

from __future__ import annotations

import json

import pytest
import torch

from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import POLICIES, AugmentPolicy
from defectgen.downstream import arms, curve, detector
from defectgen.downstream.curve import interval

SIDE = 32


def random(seed):
    return torch.Generator().manual_seed(seed)


def squares(n, seed):
    """Pairs with a bright square somewhere on dark noise; and as many images without one."""
    draw = random(seed)
    images = 0.3 * torch.rand(2 * n, 3, SIDE, SIDE, generator=draw)
    masks = torch.zeros(n, 1, SIDE, SIDE, dtype=torch.bool)
    for i, (y, x) in enumerate(torch.randint(2, SIDE - 10, (n, 2), generator=draw).tolist()):
        masks[i, :, y : y + 8, x : x + 8] = True
        images[i, :, y : y + 8, x : x + 8] += 0.5
    return detector.Pairs(images[:n], masks), images[n:]


def guesses(masks, noise, seed):
    """Probabilities that separate the defects the better the less noise is added."""
    values = masks + noise * torch.randn(masks.shape, generator=random(seed))
    return values.double().sigmoid()


def some_masks(n=10, defects=6):
    masks = torch.rand(n, 1, 16, 16, generator=random(5)) < 0.1
    masks[defects:] = False
    return masks


def slow_ap(scores, masks):
    """By the definition, one threshold after the other."""
    scores, masks = scores.flatten().tolist(), masks.flatten().tolist()
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        kept = [mask for score, mask in zip(scores, masks, strict=True) if score >= threshold]
        recall = sum(kept) / sum(masks)
        area += (recall - recall_before) * sum(kept) / len(kept)
        recall_before = recall
    return area


@pytest.mark.parametrize("values", [2, 10, None], ids=["two scores", "ties", "all differ"])
def test_average_precision_is_that_of_its_definition(values):
    masks = torch.rand(2, 1, 12, 12, generator=random(0)) < 0.2
    scores = guesses(masks, 1.0, seed=1)
    if values:
        scores = (scores * values).floor() / values
        assert len(scores.unique()) <= values
    assert curve.pixel_ap(scores, masks) == pytest.approx(slow_ap(scores, masks), abs=1e-12)


def test_average_precision_is_that_of_scikit_learn():
    reference = pytest.importorskip("sklearn.metrics").average_precision_score
    masks = torch.rand(3, 1, 64, 64, generator=random(0)) < 0.05
    for scores in (guesses(masks, 1.0, seed=1), guesses(masks, 1.0, seed=1).mul(50).round()):
        expected = reference(masks.flatten().numpy(), scores.flatten().numpy())
        assert curve.pixel_ap(scores, masks) == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand():
    masks = torch.tensor([True, False, True, False])
    assert curve.pixel_ap(torch.tensor([0.9, 0.8, 0.7, 0.1]), masks) == pytest.approx(5 / 6)
    assert curve.pixel_ap(torch.tensor([0.9, 0.1, 0.9, 0.1]), masks) == 1.0
    assert curve.pixel_ap(torch.full((4,), 0.5), masks) == 0.5


def test_errors_say_what_to_do():
    masks = torch.tensor([True, False])
    with pytest.raises(ValueError, match=r"^masks: some defect .*; got none; pass"):
        curve.pixel_ap(torch.rand(2), torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"^scores: finite.*; got 1 not finite.*; pass"):
        curve.pixel_ap(torch.tensor([0.5, float("nan")]), masks)
    with pytest.raises(ValueError, match=r"^scores: .*shape \(1, 2\) .*got .*shape \(1, 3\)"):
        curve.pixel_ap(torch.rand(3), masks)
    pairs, goods = squares(1, seed=0)
    with pytest.raises(ValueError, match=r"^sources: .*; got 0 sources, 1 goods; pass"):
        detector.train([], goods, AugmentPipe(POLICIES["none"]), seed=0)
    with pytest.raises(ValueError, match=r"got 5 sources"):
        detector.train([pairs] * 5, goods, AugmentPipe(POLICIES["none"]), seed=0)


def test_the_levels_of_the_bootstrap_hardly_change_the_score():
    masks = torch.rand(20, 1, 64, 64, generator=random(0)) < 0.05
    for noise in (0.2, 0.5, 1.0, 3.0):
        scores = guesses(masks, noise, seed=2)
        counts = curve.histograms(scores, masks)
        assert counts.shape == (2, 20, curve.LEVELS)  # fewer than the 4000 positives: a real test
        exact = curve.pixel_ap(scores, masks)
        assert curve.area_of(counts.sum(1)).item() == pytest.approx(exact, abs=0.002)
    assert (
        abs(curve.area_of(curve.histograms(scores, masks, levels=2).sum(1)).item() - exact) > 1e-3
    )


def test_every_pixel_from_the_lowest_positive_up_is_counted_once():
    masks = some_masks()
    scores = guesses(masks, 1.0, seed=2)
    hits, pixels = curve.histograms(scores, masks).sum(2)
    assert hits.tolist() == masks.flatten(1).sum(1).tolist()
    lowest = scores[masks].min()
    assert pixels.tolist() == (scores >= lowest).flatten(1).sum(1).tolist()


def test_resampling_of_equal_arms_finds_nothing():
    masks = some_masks()
    groups = torch.arange(10) >= 6
    same = [guesses(masks, 0.5, seed) for seed in range(3)]
    assert not curve.gains(same, same, masks, groups, draws=50).any()
    others = [guesses(masks, 0.5, seed) for seed in range(3, 6)]
    found = curve.gains(same, others, masks, groups)
    mean, low, high = interval(found)
    assert low < 0 < high
    assert low < mean < high
    assert torch.equal(curve.gains(same, others, masks, groups), found)
    assert not torch.equal(curve.gains(same, others, masks, groups, seed=1), found)
    _, lower, higher = interval(found, level=0.99)
    assert lower < low
    assert high < higher


def test_resampling_finds_the_better_arm():
    masks = some_masks()
    groups = torch.arange(10) >= 6
    good = [guesses(masks, 0.2, seed) for seed in range(3)]
    bad = [guesses(masks, 1.0, seed) for seed in range(3)]
    found = curve.gains(good, bad, masks, groups)
    mean, low, high = interval(found)
    assert 0 < low < mean < high
    assert torch.allclose(curve.gains(bad, good, masks, groups), -found)
    expected = [
        curve.pixel_ap(a, masks) - curve.pixel_ap(b, masks) for a, b in zip(good, bad, strict=True)
    ]
    assert mean == pytest.approx(sum(expected) / 3)


def test_resampling_draws_within_groups():
    """One defect and one good picture: each draw that keeps the groups apart is the data."""
    masks = some_masks(2, defects=1)
    a, b = [guesses(masks, 0.2, 0)], [guesses(masks, 1.0, 1)]
    mean, low, high = interval(curve.gains(a, b, masks, torch.tensor([0, 1])))
    assert (low, high) == pytest.approx((mean, mean))
    _, low, high = interval(curve.gains(a, b, masks, torch.tensor([0, 0])))
    assert high - low > 0.01


def test_resampling_draws_training_seeds():
    masks = some_masks(2, defects=1)
    a = [guesses(masks, noise, 0) for noise in (0.2, 1.0)]
    b = [guesses(masks, 3.0, 1)] * 2
    single = [curve.pixel_ap(one, masks) - curve.pixel_ap(b[0], masks) for one in a]
    _, low, high = interval(curve.gains(a, b, masks, torch.tensor([0, 1])))
    half = curve.spread_of(2) * (max(single) - min(single)) / 2
    assert (low, high) == pytest.approx((sum(single) / 2 - half, sum(single) / 2 + half))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_arms_differ_in_one_of_ten_tests(seeds):
    """Trainings that vary by chance alone, on pictures that all say the same."""
    draw, wrong = random(0), 0
    for _ in range(2000):
        values = torch.randn(seeds, generator=draw, dtype=torch.float64)
        picks = torch.randint(seeds, (400, seeds), generator=draw)
        middle = values.mean()
        drawn = middle + curve.spread_of(seeds) * (values[picks].mean(1) - middle)
        _, low, high = interval(torch.cat([middle[None], drawn]))
        wrong += low > 0 or high < 0
    assert wrong / 2000 < 0.17  # without it 0.50, 0.38, and 0.20


def test_compare_reports_every_arm_and_difference():
    masks = some_masks()
    noise = {
        "real": 1.0,
        "generated": 2.0,
        "real + generated": 0.3,
        "real + copy-paste": 0.6,
    }
    shown = {name: [guesses(masks, noise[name], seed) for seed in range(4)] for name in arms.ARMS}
    found, draws = arms.compare(shown, masks, 6)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"arms", "differences", "level", "test"}
    assert found["level"] == 0.9
    rate = masks.sum().item() / masks.numel()
    assert found["test"] == {"defects": 6, "goods": 4, "base_rate": pytest.approx(rate)}
    for name, arm in found["arms"].items():
        assert arm["ap"] == [curve.pixel_ap(one, masks) for one in shown[name]]
        assert arm["mean"] == pytest.approx(sum(arm["ap"]) / 4)
    means = {name: arm["mean"] for name, arm in found["arms"].items()}
    assert set(means) == set(arms.ARMS)
    differences = found["differences"]
    assert set(differences) == {
        "real + generated - real",
        "real + generated - real + copy-paste",
        "generated - real",
    }
    assert differences["real + generated - real"]["low"] > 0
    assert differences["generated - real"]["high"] < 0
    for name, values in draws.items():
        assert [differences[name][x] for x in ("mean", "low", "high")] == list(interval(values))
    expected = means["real + generated"] - means["real + copy-paste"]
    assert differences["real + generated - real + copy-paste"]["mean"] == pytest.approx(expected)


@pytest.fixture
def pipe():
    return AugmentPipe(POLICIES["safe"])


def test_the_seed_decides_every_bit_and_nothing_else_is_touched(pipe):
    pairs, goods = squares(3, seed=0)
    images, masks = pairs.images.clone(), pairs.masks.clone()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = detector.train([pairs], goods, pipe, seed=0, steps=2).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(pairs.images, images)
    assert torch.equal(pairs.masks, masks)
    torch.manual_seed(2)
    again = detector.train([pairs], goods, pipe, seed=0, steps=2).state_dict()
    other = detector.train([pairs], goods, pipe, seed=1, steps=2).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.fixture
def batches(monkeypatch):
    """What the networks are shown: images and masks of every step."""
    shown, seen = [], []

    def loss(logits, masks):
        seen.append((shown.pop(), masks))
        return logits.mean()

    def forward(self, images):
        shown.append(images)
        return self.head(images.mean(1, keepdim=True).repeat(1, detector.WIDTHS[0], 1, 1))

    monkeypatch.setattr(detector, "loss", loss)
    monkeypatch.setattr(detector.UNet, "forward", forward)
    return seen


def test_batches_hold_goods_and_equal_shares_of_the_sources(batches):
    """Images of one gray each tell where they come from."""
    full = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    sources = [detector.Pairs(torch.full((2, 1, SIDE, SIDE), gray), full) for gray in (0.5, 1.0)]
    goods = torch.zeros(1, 1, SIDE, SIDE)
    nothing = AugmentPipe(POLICIES["none"])
    for used, shares in ((sources, (4, 6, 6)), (sources[1:], (4, 0, 12))):
        detector.train(used, goods, nothing, seed=0, steps=1)
        images, masks = batches.pop()
        grays = images[:, 0, 0, 0]
        assert tuple((grays == gray).sum().item() for gray in (-1, 0, 1)) == shares
        assert torch.equal(masks.flatten(1).all(1), grays > -1)
        assert torch.equal(masks.flatten(1).any(1), grays > -1)


def test_masks_move_with_their_images_and_images_stay_in_range(batches):
    """Images that are their own masks."""
    masks = squares(4, seed=0)[0].masks
    goods = torch.zeros(1, 1, SIDE, SIDE)
    moves = dict.fromkeys(("flip_x", "rot90", "translate_int"), True)
    still = POLICIES["none"].to_dict()
    for policy in (AugmentPolicy(**still | moves), POLICIES["bgc"]):
        pairs = detector.Pairs(masks.float(), masks)
        detector.train([pairs], goods, AugmentPipe(policy), seed=0, steps=3)
    for images, moved in batches[:3]:
        # The warp of images rings, and that of masks does not: no more than rounding here.
        assert torch.equal(images > 0, moved > 0)
        assert set(moved.unique().tolist()) == {0, 1}
    places = torch.cat([moved for _, moved in batches[:3]]).unique(dim=0)
    assert len(places) > 5  # the empty one, the four squares, and moved ones
    assert all(images.abs().max() <= 1 for images, _ in batches)


def test_loss_is_smallest_for_the_mask_itself():
    masks = some_masks().float()
    right = detector.loss(20 * (2 * masks - 1), masks)
    assert right < 1e-6
    assert detector.loss(torch.zeros_like(masks), masks) > 1
    assert detector.loss(torch.full_like(masks, -20), masks) > right + 1
    p, m = torch.tensor(0.75), torch.tensor(1.0)
    expected = -p.log() + 1 - (2 * p * m + 1) / (p + m + 1)
    assert detector.loss(p.logit().view(1, 1, 1, 1), m.view(1, 1, 1, 1)) == pytest.approx(expected)


def test_an_untrained_network_expects_few_defects():
    images = torch.rand(2, 3, SIDE, SIDE, generator=random(0))
    assert detector.scores(detector.UNet(3), images).mean() < 0.1


def test_scores_are_probabilities_of_each_image_alone():
    network = detector.UNet(1)
    images = torch.rand(2 * detector.BATCH + 1, 1, SIDE, SIDE, generator=random(0))
    found = detector.scores(network.train(), images)
    assert found.shape == images.shape
    assert not found.requires_grad
    assert 0 <= found.min() < found.max() <= 1
    assert torch.allclose(found[-1:], detector.scores(network, images[-1:]), atol=1e-5)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(25)
    assert detector.scores(network, images).max() < 1  # single precision would say 1


def test_run_learns_toy_squares_and_reports_them(pipe):
    real, goods = squares(6, seed=0)
    test, test_goods = squares(8, seed=1)
    sources = {"real": real, "generated": squares(20, seed=2)[0], "copy-paste": real}
    lines = []
    found, _ = arms.run(sources, goods, test, test_goods, pipe, lines.append, steps=12, seeds=1)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {
        *("arms", "differences", "level", "test"),
        *("protocol", "steps", "seconds"),
    }
    assert (found["protocol"], found["steps"]) == (arms.protocol(12, 1), 12)
    assert found["seconds"] > 0
    assert len(lines) == len(arms.ARMS)
    assert found["test"] == {"defects": 8, "goods": 8, "base_rate": 8 * 64 / (16 * SIDE * SIDE)}
    assert found["arms"]["real"]["mean"] > 0.9  # a blind guess has 0.03
    assert found["arms"]["real"] != found["arms"]["generated"]
    # Real pairs as their own second source: every arm has the same weights and draws.
    assert found["arms"]["real + copy-paste"] == found["arms"]["real"]


def test_convolutions_are_those_of_torch():
    layer = detector._Conv(8, 16, 3, padding=1, bias=False)
    x = torch.rand(2, 8, 9, 10, generator=random(0))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    found, wanted = layer(x), torch.nn.functional.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(found, wanted)
    inputs = x, layer.weight
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(wanted.square().sum(), inputs),
    )

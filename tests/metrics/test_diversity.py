"""Diversity against loops over all pairs, and what it must and must not react to."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from defectgen.errors import ConfigError
from defectgen.metrics import diversity
from defectgen.metrics.diversity import ic_lpips, masked_diversity
from defectgen.metrics.features import package_file
from defectgen.metrics.perceptual import pairwise, st_lpips

NEEDS = ("stlpips_pytorch", "weights", "vST0.0", "alex_shift_tolerant.pth")


class Pixels:
    """A perceptual distance one can compute by hand: pixels in [-1, 1] and their 2 x 2 means."""

    name = "pixels"

    def features(self, images):
        scaled = images * 2 - 1
        return [scaled, F.avg_pool2d(scaled, 2)]

    def distance(self, a, b):
        return pairwise(self.features(a), self.features(b))


PIXELS = Pixels()


def pictures(count: int, seed: int = 0, side: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def half(image: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(image, 2)


def near(training: torch.Tensor, counts: list[int], amount: float = 0.05) -> torch.Tensor:
    """As many noisy versions of each training image as said."""
    base = torch.cat([training[k : k + 1].expand(n, -1, -1, -1) for k, n in enumerate(counts)])
    source = torch.Generator().manual_seed(7)
    return (base + amount * torch.randn(base.shape, generator=source)).clamp(0, 1)


def loop(samples, clusters: list[list[int]]) -> list[float]:
    """Mean distance of all pairs of every cluster that has one."""
    found = []
    for members in clusters:
        values = [
            float(PIXELS.distance(samples[i : i + 1], samples[j : j + 1]))
            for i, j in itertools.combinations(members, 2)
        ]
        found += [sum(values) / len(values)] if values else []
    return found


# -- clusters ---


def test_ic_lpips_is_the_mean_over_clusters_of_the_mean_over_pairs():
    training = pictures(4)
    samples = near(training, [2, 5, 1, 0])
    one, two = loop(samples, [[0, 1], [2, 3, 4, 5, 6], [7], []])
    assert one != pytest.approx(two, rel=0.01)
    assert ic_lpips(samples, training, PIXELS) == pytest.approx((one + two) / 2, rel=1e-5)
    assert ic_lpips(samples.flip(0), training, PIXELS) == pytest.approx((one + two) / 2, rel=1e-5)


def test_the_faithful_form_repeats_the_published_habit():
    training = (pictures(4) * 255).round() / 255
    samples = near(training, [3, 4, 2, 2], amount=0.3)
    raw = [(training * 255).round(), samples * 2 - 1]
    distance = torch.tensor(
        [
            [
                sum(float((f(s) - f(t)).square().sum(0).mean()) for f in (torch.clone, half))
                for t in raw[0]
            ]
            for s in raw[1]
        ]
    )
    nearest = distance.argmin(1).tolist()
    clusters = [[i for i, c in enumerate(nearest) if c == k] for k in range(4)]
    expected = sum(loop(samples, clusters)) / 4
    got = ic_lpips(samples, training, PIXELS, form="faithful")
    assert got == pytest.approx(expected, rel=1e-5)
    assert ic_lpips(samples, training, PIXELS) != pytest.approx(got, rel=0.05)


def test_in_the_faithful_form_the_network_sees_training_images_from_0_to_255():
    seen = []

    class Spy(Pixels):
        def features(self, images):
            seen.append(super().features(images)[0])
            return super().features(images)

    training = (pictures(2) * 255).round() / 255
    samples = near(training, [2, 2])
    ic_lpips(samples, training, Spy(), form="faithful")
    torch.testing.assert_close(torch.cat(seen[:2]), training * 255)
    assert float(torch.cat(seen[2:]).abs().max()) <= 1


def test_clusters_without_a_pair_count_as_zero_in_the_faithful_form_only():
    training = torch.stack([torch.full((3, 8, 8), v) for v in (0.0, 0.5, 1.0)])
    samples = near(training, [4, 0, 0])
    corrected = ic_lpips(samples, training, PIXELS)
    assert corrected > 0
    # The dark training image is the nearest in both scales.
    faithful = ic_lpips(samples, training, PIXELS, form="faithful")
    assert faithful == pytest.approx(corrected / 3, rel=1e-6)


def test_copies_of_the_training_images_are_not_diverse():
    training = pictures(3)
    copies = near(training, [4, 4, 4], amount=0)
    assert ic_lpips(copies, training, PIXELS) == pytest.approx(0, abs=1e-6)
    assert ic_lpips(near(training, [4, 4, 4]), training, PIXELS) > 0.01


def test_no_more_samples_of_a_cluster_than_asked_are_compared():
    training = pictures(1)
    samples = near(training, [6])
    pairs = loop(samples, list(map(list, itertools.combinations(range(6), 2))))
    found = {ic_lpips(samples, training, PIXELS, per_cluster=2, seed=s) for s in range(6)}
    assert len(found) > 1
    for value in found:
        assert min(abs(value - pair) for pair in pairs) < 1e-5
    again = ic_lpips(samples, training, PIXELS, per_cluster=2, seed=0)
    assert again == ic_lpips(samples, training, PIXELS, per_cluster=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "exact"}, "form: must be one of 'corrected', 'faithful'"),
        ({"per_cluster": 1}, "per_cluster: must be"),
        ({"samples": pictures(1)}, "samples: must be 2 or more"),
        ({"samples": pictures(4) * 255}, "samples: .*divide 8 bits by 255"),
        ({"training": pictures(4) * 2 - 1}, "training: .*got values from -"),
        ({"training": pictures(4, side=16)}, "training, samples: .*one size"),
        ({"samples": pictures(2)}, "samples: two of them .*pass more samples"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    given = {"samples": pictures(6), "training": pictures(2), **change}
    with pytest.raises(ConfigError, match=message):
        ic_lpips(given.pop("samples"), given.pop("training"), PIXELS, **given)


# -- masks ---


def squares(count: int, side: int = 8) -> torch.Tensor:
    masks = torch.zeros(count, 1, side, side, dtype=torch.bool)
    for k in range(count):
        masks[k, :, k % 4 : k % 4 + 3, 2:5] = True
    return masks


def masked_loop(samples, masks) -> float:
    values = []
    for i, j in itertools.combinations(range(len(samples)), 2):
        difference = (samples[i] - samples[j]) * 2
        union = (masks[i, 0] | masks[j, 0]).float()
        for f, share in ((difference, union), (half(difference), half(union[None])[0])):
            values.append(float((f.square().sum(0) * share).sum() / share.sum()))
    return sum(values) / (len(values) / 2)


def test_masked_diversity_is_the_mean_over_pairs_inside_the_union_of_their_masks():
    samples, masks = pictures(5), squares(5)
    expected = masked_loop(samples, masks)
    assert masked_diversity(samples, masks, PIXELS) == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(masked_loop(samples, torch.ones_like(masks)), rel=1e-3)


def test_what_lies_outside_the_masks_does_not_count():
    base, masks = pictures(1).expand(4, -1, -1, -1), squares(4)
    fixed = F.pad(torch.ones(4, 1, 8, 6, dtype=torch.bool), (0, 2))  # whole cells of 2 x 2
    outside = torch.where(fixed, base, pictures(4, 1))
    assert masked_diversity(outside, masks, PIXELS) == pytest.approx(0, abs=1e-10)
    assert ic_lpips(outside, base[:1], PIXELS) > 0.1
    inside = torch.where(masks, pictures(4, 1), base)
    assert masked_diversity(inside, masks, PIXELS) > 0.1


def test_samples_without_a_mask_are_left_out():
    samples, masks = pictures(5), squares(5)
    masks[[1, 3]] = False
    kept = [0, 2, 4]
    expected = masked_loop(samples[kept], masks[kept])
    assert masked_diversity(samples, masks, PIXELS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("pairs", "compared"), [(1, 5), (5, 5), (6, 9), (10, 12), (99, 15)])
def test_as_many_pairs_are_compared_as_asked_and_none_twice(monkeypatch, pairs, compared):
    seen = []

    def spy(a, b, weights):
        seen.append(frozenset((float(a[0].sum()), float(b[0].sum()))))
        return pairwise(a, b, weights)

    monkeypatch.setattr(diversity, "pairwise", spy)
    masked_diversity(pictures(6), squares(6), PIXELS, pairs=pairs)
    assert len(seen) == compared
    assert len(set(seen)) == compared


def test_the_order_of_pairs_comes_from_the_seed():
    given = pictures(6), squares(6), PIXELS
    first = masked_diversity(*given, pairs=5)
    assert masked_diversity(*given, pairs=5) == first
    assert masked_diversity(*given, pairs=5, seed=1) != first


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (squares(4).float(), r"masks: must be bool \(4, 1, 8, 8\); got .*float32"),
        (squares(3), r"got \(3, 1, 8, 8\)"),
        (squares(4)[:, 0], r"got \(4, 8, 8\)"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.bool), "at least two must not be empty; got 0 of 4"),
        (None, "masks: must be bool"),
    ],
)
def test_bad_masks_are_refused(masks, message):
    with pytest.raises(ConfigError, match=message):
        masked_diversity(pictures(4), masks, PIXELS)


# -- orders, with the network ---


@pytest.mark.skipif(package_file(*NEEDS) is None, reason="needs stlpips-pytorch")
def test_diversity_grows_with_the_variety_of_defects():
    metric = st_lpips()
    source = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 12, generator=source)
    ground = F.interpolate(coarse, size=64, mode="bilinear").expand(6, -1, -1, -1)
    spots = F.interpolate(torch.rand(6, 3, 16, 16, generator=source), size=64)
    masks = torch.zeros(6, 1, 64, 64, dtype=torch.bool)
    masks[..., 24:44, 24:44] = True
    weak, strong = (torch.where(masks, ground.lerp(spots, s), ground) for s in (0.2, 0.8))
    for score in (
        lambda x: masked_diversity(x, masks, metric),
        lambda x: ic_lpips(x, ground[:1], metric),
    ):
        assert score(ground) == pytest.approx(0, abs=1e-5)
        assert 0.001 < score(weak) < 0.7 * score(strong)
    everywhere = ic_lpips(strong, ground[:1], metric)
    assert masked_diversity(strong, masks, metric) > 2 * everywhere

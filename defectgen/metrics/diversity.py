"""Perceptual diversity of samples: whole pictures in clusters, or inside their masks.

Letters: N samples, K training images, C channels, H and W.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

import torch
from torch import Tensor

from defectgen.checks import check_choice, check_range
from defectgen.errors import ConfigError
from defectgen.metrics.features import check_images
from defectgen.metrics.perceptual import Perceptual, pairwise
from defectgen.rng import generator

Form = Literal["corrected", "faithful"]


def ic_lpips(
    samples: Tensor,  # (N, C, H, W)
    training: Tensor,  # (K, C, H, W)
    perceptual: Perceptual,
    *,
    form: Form = "corrected",
    per_cluster: int = 200,
    seed: int = 0,
) -> float:
    """Intra-cluster perceptual distance (Ojha et al. 2021, section 4.1), higher is more diverse.

    Each sample joins the cluster of its nearest training image; the result is the mean over
    clusters of the mean distance over the pairs of samples in it. Copies of the training images
    score 0, however different these are. At 256 px it keeps about 30 MB per training image.

    The forms differ in two points. "corrected" scales samples and training images alike, and
    leaves out clusters without a pair. "faithful" repeats the habit of published tables: training
    images enter the assignment as 0 to 255 and samples as -1 to 1, so that clusters are close to
    arbitrary, and clusters without a pair count as 0.

    Args:
        samples: float in [0, 1], N at least 2.
        training: float in [0, 1], K at least 1, of the same size.
        perceptual: the distance, for example from `perceptual.st_lpips`.
        form: "corrected" or "faithful".
        per_cluster: most samples of a cluster that are compared, at least 2, drawn at random.
        seed: of that draw.

    Raises:
        ConfigError: bad images or numbers, or no cluster has a pair of samples.
    """
    check_choice("form", form, ["corrected", "faithful"])
    check_range("per_cluster", per_cluster, low=2, integer=True)
    check_images("samples", samples, least=2)
    check_images("training", training)
    _check_sizes("training", training, "samples", samples)
    if form == "faithful":
        # Networks here take [0, 1] and scale by x * 2 - 1: this enters as 0 to 255 after that.
        training = ((training * 255).round() + 1) / 2
    centers = [perceptual.features(image) for image in torch.split(training, 1)]
    clusters = [_Cluster() for _ in centers]
    # In random order, so that the first samples of a cluster are a random choice.
    for index in torch.randperm(len(samples), generator=generator(seed, "ic_lpips")).tolist():
        features = perceptual.features(samples[index : index + 1])
        distances = torch.cat([pairwise(features, center) for center in centers])
        cluster = clusters[int(distances.argmin())]
        if cluster.count < per_cluster:
            cluster.add(features)
    values = [cluster.mean_distance() for cluster in clusters if cluster.count > 1]
    if form == "faithful":
        return sum(values) / len(training)
    if not values:
        raise ConfigError(
            "samples: two of them must be nearest to the same training image; got "
            f"{len(samples)} samples for {len(training)} training images; pass more samples"
        )
    return sum(values) / len(values)


def masked_diversity(
    samples: Tensor,  # (N, C, H, W)
    masks: Tensor,  # (N, 1, H, W)
    perceptual: Perceptual,
    *,
    pairs: int = 1000,
    seed: int = 0,
) -> float:
    """Mean perceptual distance of pairs of samples, each inside the union of its two masks.

    A damaged background does not pass for diversity, as it does in `ic_lpips`. The samples are put
    in random order and each is compared with as many of its successors as give the number of
    pairs. Samples with an empty mask are left out.

    Args:
        samples: float in [0, 1].
        masks: bool, True on the defect; at least two must not be empty.
        perceptual: the distance, for example from `perceptual.st_lpips`.
        pairs: at least so many, or all there are.
        seed: of the order.

    Raises:
        ConfigError: bad images, masks or numbers, or fewer than two masks with a pixel.
    """
    check_range("pairs", pairs, low=1, integer=True)
    check_images("samples", samples, least=2)
    shape = (len(samples), 1, *samples.shape[2:])
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or masks.shape != shape:
        got = f"{tuple(masks.shape)} of {masks.dtype}" if isinstance(masks, Tensor) else type(masks)
        raise ConfigError(f"masks: must be bool {shape}; got {got}; pass one mask per sample")
    drawn = masks.any(3).any(2).flatten().nonzero().flatten().tolist()
    if len(drawn) < 2:
        raise ConfigError(
            f"masks: at least two must not be empty; got {len(drawn)} of {len(masks)}; pass more"
        )
    order = torch.randperm(len(drawn), generator=generator(seed, "masked diversity")).tolist()
    kept: deque[tuple[int, list[Tensor]]] = deque(maxlen=_successors(len(drawn), pairs))
    values = []
    for index in (drawn[k] for k in order):
        features = perceptual.features(samples[index : index + 1])
        for other, others in kept:
            union = masks[index : index + 1] | masks[other : other + 1]
            values.append(float(pairwise(features, others, union)))
        kept.append((index, features))
    return math.fsum(values) / len(values)


def _successors(count: int, pairs: int) -> int:
    """How many successors each of `count` has to be compared with to give so many pairs."""
    reach, found = 1, count - 1
    while found < pairs and reach < count - 1:
        reach += 1
        found += count - reach
    return reach


class _Cluster:
    """Samples of one cluster, as two sums that give the mean distance over all pairs.

    A distance is sum_l |f_l(x) - f_l(y)|^2 / (h w) of the maps of each layer, and for any vectors
    sum_{i<j} |f_i - f_j|^2 = n sum_i |f_i|^2 - |sum_i f_i|^2.
    """

    def __init__(self) -> None:
        self.count = 0
        self._squares = 0.0
        self._sums: list[Tensor] = []

    def add(self, features: list[Tensor]) -> None:
        """Count the maps (1, C, h, w) of one more sample."""
        layers = [f.cpu().double() / math.sqrt(f[0, 0].numel()) for f in features]
        self._squares += sum(float(layer.square().sum()) for layer in layers)
        sums = self._sums or [torch.zeros_like(layer) for layer in layers]
        self._sums = [total + layer for total, layer in zip(sums, layers, strict=True)]
        self.count += 1

    def mean_distance(self) -> float:
        """Mean distance over the count * (count - 1) / 2 pairs."""
        common = sum(float(total.square().sum()) for total in self._sums)
        pairs = self.count * (self.count - 1) / 2
        return max(0.0, self.count * self._squares - common) / pairs


def _check_sizes(name: str, images: Tensor, other: str, others: Tensor) -> None:
    if images.shape[2:] != others.shape[2:]:
        raise ConfigError(
            f"{name}, {other}: must have images of one size; got {tuple(images.shape[2:])} and "
            f"{tuple(others.shape[2:])}; resize one of them"
        )

"""Simple scores of generated pairs that need no pretrained network, each with its protocol."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.batch import DefectBatch
from defectgen.checks import check_range
from defectgen.data.images import PairSet
from defectgen.errors import ConfigError
from defectgen.rng import generator

#: A pixel counts as changed if its mean difference over the channels exceeds this (of 0 to 1).
CHANGED = 8 / 255
#: Sliced Wasserstein distance: side and number of patches, directions, repetitions, last level.
PATCH, PATCHES, DIRECTIONS, REPETITIONS, COARSEST = 7, 64, 256, 8, 16

#: What each score of `score_table` is; reports print these lines.
PROTOCOLS = {
    "area_real": "mean share of the pixels that real masks cover",
    "area_generated": "the same of generated masks",
    "empty_masks": "share of generated masks without any pixel",
    "change_iou": "intersection over union of the mask and of the pixels that differ from the good "
    "twin by more than 8/255 (mean over channels); mean over samples where either has a pixel",
    "change_leak": "share of these changed pixels farther from the mask than the receptive radius",
    "background_drift": "mean absolute difference from the good twin outside the mask, in gray "
    "levels of 255",
    "swd_real": "sliced Wasserstein distance x 1000 between two random halves of the real images, "
    "mean over 8 splits: what equally many other real images would reach",
    "swd_generated": "the same between one half and equally many generated images",
}


def score_table(real: PairSet, samples: DefectBatch, radius: int) -> dict[str, float]:
    """Compare generated pairs with the real ones; `PROTOCOLS` says what each number is.

    Scores that the data cannot give are left out: ``change_iou`` if nothing is drawn anywhere,
    ``background_drift`` if masks cover everything.

    Args:
        real: at least two pairs.
        samples: at least one sample with mask and good twin, as large as the real images.
        radius: how far, in pixels, an open gate can change the image around it; see
            :func:`defectgen.networks.defect.receptive_radius`.

    Returns:
        Finite numbers by name; the same for the same arguments.

    Raises:
        ConfigError: the samples have no masks or normals, another size, or there are too few.
    """
    check_range("radius", radius, low=0, integer=True)
    images, masks, normals = _fields(real, samples)
    areas = masks.float().mean((1, 2, 3))
    scores = {
        "area_real": float(real.masks.float().mean()),
        "area_generated": float(areas.mean()),
        "empty_masks": float((areas == 0).float().mean()),
        **_change_scores(images, masks, normals, radius),
        **swd_scores(real.images, images),
    }
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def _fields(real: PairSet, samples: DefectBatch) -> tuple[Tensor, Tensor, Tensor]:
    images, masks, normals = samples.triplets()
    if len(samples) < 1 or samples.images.shape[1:] != real.images.shape[1:]:
        raise ConfigError(
            f"samples: must be one or more of the size {tuple(real.images.shape[1:])} of the real "
            f"images; got {tuple(samples.images.shape)}; load the real ones at that resolution"
        )
    return images.float(), masks, normals.float()


# -- where the picture changed ---------------------------------------------------------------------


def _change_scores(
    images: Tensor,  # (N, C, H, W) in [0, 1]
    masks: Tensor,  # (N, 1, H, W) bool
    normals: Tensor,  # (N, C, H, W) in [0, 1]
    radius: int,
) -> dict[str, float]:
    difference = (images - normals).abs().mean(1, keepdim=True)
    changed = difference > CHANGED
    both = (changed & masks).sum((1, 2, 3)).float()
    either = (changed | masks).sum((1, 2, 3)).float()
    reach = F.max_pool2d(masks.float(), 2 * radius + 1, stride=1, padding=radius) > 0
    leaked, total = float((changed & ~reach).sum()), float(changed.sum())
    return {
        # A mean over no sample is NaN, which the caller leaves out.
        "change_iou": float((both / either)[either > 0].mean()),
        "change_leak": leaked / total if total else 0.0,
        "background_drift": float(difference[~masks].mean()) * 255,
    }


# -- sliced Wasserstein distance -------------------------------------------------------------------


def swd_scores(real: Tensor, generated: Tensor) -> dict[str, float]:
    """Sliced Wasserstein distances of patches (Karras et al. 2018, section 5), times 1000.

    Each of 8 repetitions splits the real images into two halves of k images and takes k generated
    ones: ``swd_real`` compares the halves, ``swd_generated`` the first half with the generated
    images, so that both have the same number of images and the same noise. A distance is the mean
    over the levels of a Laplacian pyramid from the full size down to 16 px. We differ from the
    paper in taking 64 patches per image and 256 directions, and in normalizing the colors of both
    sides by the mean and deviation of the first, so that a cast over all images counts.

    Args:
        real: (N, C, R, R) uint8, N at least 2.
        generated: (M, C, R, R) float in [0, 1], M at least 1; rounded to 8 bits like the real ones.

    Raises:
        ConfigError: there are fewer images.
    """
    k = min(len(real) // 2, len(generated))
    if k < 1:
        raise ConfigError(
            "real, samples: at least 2 real and 1 generated image; got "
            f"{len(real)} and {len(generated)}; pass more"
        )
    sets = _pyramid(real.float() / 255), _pyramid((generated * 255).round() / 255)
    sums = [0.0, 0.0]
    for repetition in range(REPETITIONS):
        draw = generator(0, "swd", repetition)
        order = torch.randperm(len(real), generator=draw)
        chosen = torch.randperm(len(generated), generator=draw)[:k]
        for level, others in zip(*sets, strict=True):
            base = _patches(level[order[:k]], draw)
            sums[0] += _distance(base, _patches(level[order[k : 2 * k]], draw), draw)
            sums[1] += _distance(base, _patches(others[chosen], draw), draw)
    count = REPETITIONS * len(sets[0])
    return {"swd_real": sums[0] / count * 1000, "swd_generated": sums[1] / count * 1000}


def _pyramid(images: Tensor) -> list[Tensor]:
    """Laplacian pyramid, finest level first; the last one holds the 16 px image itself."""
    levels = []
    while images.shape[-1] > COARSEST:
        small = _blur(images, 1.0)[..., ::2, ::2]
        wide = torch.zeros_like(images)
        wide[..., ::2, ::2] = small
        # Three of four pixels are zero, hence the gain.
        levels.append(images - _blur(wide, 4.0))
        images = small
    return [*levels, images]


def _blur(images: Tensor, gain: float) -> Tensor:
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    channels = images.shape[1]
    kernel = (taps[:, None] * taps[None, :] * gain).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)


def _patches(images: Tensor, draw: torch.Generator) -> Tensor:
    """Random patches, (N * PATCHES, C, PATCH, PATCH)."""
    count, _, height, width = images.shape
    places = count, PATCHES
    top = torch.randint(height - PATCH + 1, places, generator=draw)
    left = torch.randint(width - PATCH + 1, places, generator=draw)
    window = torch.arange(PATCH)
    rows = (top[..., None] + window)[..., :, None]  # (N, P, 7, 1)
    columns = (left[..., None] + window)[..., None, :]  # (N, P, 1, 7)
    index = torch.arange(count)[:, None, None, None]
    # The channel axis comes last where index tensors stand on both sides of the slice.
    return images[index, :, rows, columns].flatten(0, 1).permute(0, 3, 1, 2)


def _distance(base: Tensor, others: Tensor, draw: torch.Generator) -> float:
    """Mean distance of the sorted projections of two equally large sets of patches."""
    mean = base.mean((0, 2, 3), keepdim=True)
    deviation = base.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    flat = [((part - mean) / deviation).flatten(1) for part in (base, others)]
    directions = torch.randn(flat[0].shape[1], DIRECTIONS, generator=draw)
    directions = directions / directions.norm(dim=0, keepdim=True)
    # Directions first: sorting along the contiguous axis is several times faster.
    first, second = ((directions.T @ part.T).sort(1).values for part in flat)
    return float((first - second).abs().mean())

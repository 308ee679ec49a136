"""Sliced Wasserstein distance of patches: how near two sets of images are without any network.

Letters: N and M images, C channels, R pixels to a side, P patches per image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.errors import ConfigError
from defectgen.ordering import sorted_rows
from defectgen.rng import generator

#: Side and number of patches, directions, repetitions, size of the last level.
PATCH, PATCHES, DIRECTIONS, REPETITIONS, COARSEST = 7, 64, 256, 8, 16


def swd_scores(real: Tensor, generated: Tensor) -> dict[str, float]:
    """Sliced Wasserstein distances of patches (Karras et al. 2018, section 5), times 1000.

    Each of 8 repetitions splits the real images into two halves of k images and takes k generated
    ones: ``swd_real`` compares the halves, ``swd_generated`` the first half with the generated
    images, so that both have the same number of images and the same noise. A distance is the mean
    over the levels of a Laplacian pyramid from the full size down to 16 px. We differ from the
    paper in taking 64 patches per image and 256 directions, and in normalizing the colors of both
    sides by the mean and deviation of the first, so that a cast over all images counts.

    Args:
        real: (N, C, R, R) uint8, N at least 2, R at least 7.
        generated: (M, C, R, R) float in [0, 1], M at least 1; rounded to 8 bits like the real ones.

    Returns:
        Both by name; the same for the same arguments.

    Raises:
        ConfigError: there are fewer images, or they are anything else.
    """
    _check_sets(real, generated)
    k = min(len(real) // 2, len(generated))
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


def patch_distance(real: Tensor, generated: Tensor) -> float:
    """Sliced Wasserstein distance of patches, times 1000, for sets of any sizes.

    As `swd_scores`, but without halves: as many patches as 64 for each generated image are drawn
    from either set. It has no yardstick and serves to compare snapshots of one training.

    Args:
        real: (N, C, R, R) uint8, N at least 1, R at least 7.
        generated: (M, C, R, R) float in [0, 1], M at least 1.

    Raises:
        ConfigError: there are fewer images, or they are anything else.
    """
    found = level_distances(real, generated)
    return sum(found) / len(found)


def level_distances(real: Tensor, generated: Tensor) -> list[float]:
    """The distances of which `patch_distance` is the mean, of the finest level first."""
    _check_sets(real, generated, least=1)
    draws = [generator(0, "patches", repetition) for repetition in range(2)]
    chosen = [torch.randint(len(real), (len(generated),), generator=draw) for draw in draws]
    # Of hundreds of images only those that are looked at: floats of all would fill the memory.
    used, places = torch.unique(torch.cat(chosen), return_inverse=True)
    sets = _pyramid(real[used].float() / 255), _pyramid((generated * 255).round() / 255)
    sums = [0.0] * len(sets[0])
    for draw, index in zip(draws, places.split(len(generated)), strict=True):
        for k, (level, others) in enumerate(zip(*sets, strict=True)):
            sums[k] += _distance(_patches(level[index], draw), _patches(others, draw), draw)
    return [total / len(draws) * 1000 for total in sums]


def _pyramid(images: Tensor) -> list[Tensor]:
    """Laplacian pyramid, finest level first; the last one holds the 16 px image itself."""
    # In parts, or what is needed for a moment would be several times as much as the result.
    parts = [_levels(part) for part in torch.split(images, 16)]
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def _levels(images: Tensor) -> list[Tensor]:
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
    first, second = (sorted_rows(directions.T @ part.T) for part in flat)
    return float((first - second).abs().mean())


def _check_sets(real: Tensor, generated: Tensor, least: int = 2) -> None:
    shape = tuple(real.shape)
    if real.ndim != 4 or real.dtype != torch.uint8 or shape[2] != shape[3] or shape[2] < PATCH:
        raise ConfigError(
            f"real: must be uint8 images (N, C, R, R), R at least {PATCH}; got {shape} of "
            f"{real.dtype}; resize them to squares of 8 bits"
        )
    if not generated.is_floating_point() or tuple(generated.shape[1:]) != shape[1:]:
        raise ConfigError(
            f"generated: must be float images (M, C, R, R) of the size {shape[1:]} of the real "
            f"ones; got {tuple(generated.shape)} of {generated.dtype}; load both at one size"
        )
    if len(real) < least or len(generated) < 1:
        raise ConfigError(
            f"real, generated: must be at least {least} real and 1 generated image; got "
            f"{len(real)} and {len(generated)}; pass more"
        )

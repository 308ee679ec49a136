"""Copy-paste, the yardstick of every defect generator, and windows around defects.

Letters: N pairs, G good images, n results, C channels, H and W, S side of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from defectgen.checks import check_range
from defectgen.errors import ConfigError, MaskError
from defectgen.metrics.masks import check_masks
from defectgen.rng import generator, sample_seeds


def copy_paste(
    images: Tensor,  # (N, C, H, W)
    masks: Tensor,  # (N, 1, H, W) bool
    goods: Tensor,  # (G, C, H, W)
    n: int,
    *,
    seed: int,
    shift: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Paste defects onto good images without blending: what a generator has to beat.

    Each result is a random good image with the pixels under the mask of a random pair, at the same
    place or, with `shift`, at a random one near it (after Dwibedi et al. 2017; we neither scale
    nor turn nor blend). Result i depends on seed + i only, and its pair and good image do not
    depend on `shift`.

    Args:
        images: float or uint8, the defects, N at least 1.
        masks: where they are; none is empty.
        goods: images without defect, G at least 1, of the same kind and size.
        n: how many, at least 1.
        seed: of the draw.
        shift: largest shift in pixels to each side, fewer where the mask would leave the image.

    Returns:
        Images (n, C, H, W) of the type of `images`, their masks (n, 1, H, W) bool, and the good
        images below (n, C, H, W).

    Raises:
        ConfigError: shapes or types do not fit, or a number is out of bounds.
        MaskError: a mask is empty.
    """
    _check_pictures("images", images)
    _check_pictures("goods", goods)
    _check_pairs(images, masks)
    if goods.shape[1:] != images.shape[1:] or goods.dtype != images.dtype:
        raise ConfigError(
            f"goods: must be {images.dtype} {tuple(images.shape[1:])} as the images; got "
            f"{goods.dtype} {tuple(goods.shape[1:])}; load both in the same way"
        )
    empty = (~masks.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise MaskError(
            f"masks: must have a pixel each; got empty ones at {empty[:8]}; leave out these pairs"
        )
    check_range("n", n, low=1, integer=True)
    check_range("seed", seed, low=0, integer=True)
    check_range("shift", shift, low=0, integer=True)
    pasted, moved, below = [], [], []
    for sample_seed in sample_seeds(n, seed):
        draw = generator(sample_seed, "copy-paste")
        pair, good = _draw(0, len(images) - 1, draw), _draw(0, len(goods) - 1, draw)
        step = _step(masks[pair, 0], shift, draw)
        # Nothing wraps around: the mask stays inside.
        defect, mask = (part[pair].roll(step, (1, 2)) for part in (images, masks))
        pasted.append(torch.where(mask, defect, goods[good]))
        moved.append(mask)
        below.append(goods[good])
    return torch.stack(pasted), torch.stack(moved), torch.stack(below)


def windows(
    images: Tensor,  # (N, C, H, W)
    masks: Tensor,  # (N, 1, H, W) bool
    size: int,
) -> Tensor:  # (N, C, S, S)
    """Cut a square window out of each image, around the center of mass of its mask.

    A window that would leave the image is moved inside. An empty mask gives the middle of the
    image. A mask of several distant parts may have its center where nothing is.

    Args:
        images: float or uint8, N at least 1.
        masks: one for each image.
        size: side of the windows, at most the shorter side of the image.

    Returns:
        The windows, of the type of `images`.

    Raises:
        ConfigError: shapes or types do not fit, or the size does not.
    """
    _check_pictures("images", images)
    _check_pairs(images, masks)
    count, _, height, width = images.shape
    check_range("size", size, low=1, high=min(height, width), integer=True)
    here, window = images.device, torch.arange(size)
    rows = (_starts(masks.sum(3), size)[:, None] + window).to(here)  # (N, S)
    columns = (_starts(masks.sum(2), size)[:, None] + window).to(here)
    index = torch.arange(count, device=here)[:, None, None]
    # Index tensors on both sides of the slice: the channels come last.
    return images[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _starts(counts: Tensor, size: int) -> Tensor:
    """First row (or column) of each window, (N,), from the mask pixels of each row (N, 1, H)."""
    weights = counts[:, 0].double().cpu()
    weights[weights.sum(1) == 0] = 1
    places = torch.arange(weights.shape[1]).double()
    center = (weights * places).sum(1) / weights.sum(1)
    start = (center - (size - 1) / 2 + 0.5).floor().long()
    return start.clamp(0, weights.shape[1] - size)


def _step(mask: Tensor, shift: int, draw: torch.Generator) -> tuple[int, int]:
    """A random shift of at most `shift` along each axis that keeps the mask (H, W) inside."""
    steps = []
    for axis in (0, 1):
        used = mask.any(1 - axis).nonzero()[:, 0]
        low, high = -int(used[0]), mask.shape[axis] - 1 - int(used[-1])
        steps.append(_draw(max(low, -shift), min(high, shift), draw))
    return steps[0], steps[1]


def _draw(low: int, high: int, draw: torch.Generator) -> int:
    """A random integer from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=draw))


def _check_pictures(name: str, images: Tensor) -> None:
    rule = "must be one or more images (N, C, H, W), float or uint8"
    if not isinstance(images, Tensor):
        raise ConfigError(f"{name}: {rule}; got {type(images).__name__}; pass one tensor")
    known = images.is_floating_point() or images.dtype == torch.uint8
    if images.ndim != 4 or min(images.shape) < 1 or not known:
        got = f"{tuple(images.shape)} of {images.dtype}"
        raise ConfigError(f"{name}: {rule}; got {got}; pass such a tensor")


def _check_pairs(images: Tensor, masks: Tensor) -> None:
    check_masks("masks", masks)
    count, _, height, width = images.shape
    if masks.shape != (count, 1, height, width):
        raise ConfigError(
            f"masks: must have the shape {(count, 1, height, width)} to fit the images; "
            f"got {tuple(masks.shape)}; pass one mask per image"
        )

"""Where a sample differs from its good twin, and whether its mask says so.

Letters: N samples, C channels, H and W.
"""

from __future__ import annotations

from torch import Tensor

from defectgen.checks import check_range
from defectgen.errors import ConfigError
from defectgen.metrics.features import check_images
from defectgen.metrics.masks import check_masks
from defectgen.morphology import dilated

#: A pixel counts as changed if its mean difference over the channels exceeds this (of 0 to 1).
CHANGED = 8 / 255


def agreement(
    images: Tensor,  # (N, C, H, W) in [0, 1]
    normals: Tensor,  # (N, C, H, W) in [0, 1]
    masks: Tensor,  # (N, 1, H, W) bool
    radius: int,
) -> dict[str, float]:
    """Compare masks with the change map: mean absolute difference over the channels > 8/255.

    - ``change_iou``: intersection over union of mask and changed pixels, mean over the samples
      where either has a pixel; left out if none has. A faint defect changes fewer pixels than its
      mask has: copied real defects (`defectgen.metrics.paste`) say what can be reached.
    - ``change_leak``: share of the changed pixels of all samples that are farther than `radius`
      from the mask, along rows or columns; 0 if nothing changed.

    Args:
        images: float, the samples, N at least 1.
        normals: float, the same objects without defect.
        masks: of the samples.
        radius: how far, in pixels, an open gate can change the image around it; see
            `defectgen.networks.defect.receptive_radius`.

    Returns:
        Numbers from 0 to 1 by name.

    Raises:
        ConfigError: shapes, types or ranges differ from these, or the radius is negative.
    """
    _check_samples(images, normals, masks, radius)
    changed = _difference(images, normals) > CHANGED
    both = (changed & masks).sum((1, 2, 3)).float()
    either = (changed | masks).sum((1, 2, 3)).float()
    leaked, total = float((changed & ~dilate(masks, radius)).sum()), float(changed.sum())
    scores = {"change_leak": leaked / total if total else 0.0}
    if bool((either > 0).any()):
        scores = {"change_iou": float((both / either)[either > 0].mean()), **scores}
    return scores


def drift(
    images: Tensor,  # (N, C, H, W) in [0, 1]
    normals: Tensor,  # (N, C, H, W) in [0, 1]
    masks: Tensor,  # (N, 1, H, W) bool
    radius: int,
) -> dict[str, float]:
    """Measure what changed beside the masks: mean absolute differences in gray levels of 255.

    - ``background_drift``: over all pixels outside the masks: ring and far field together.
    - ``drift_ring``: over those at most `radius` from the mask, along rows or columns.
    - ``drift_far``: over those farther away, which the architecture cannot change.
    - ``drift_far_max``: the largest difference among the last, mean over the channels.

    Args:
        images: float, the samples, N at least 1.
        normals: float, the same objects without defect.
        masks: of the samples; or where any gate is open, at the size of the image, if gates may
            open outside the masks.
        radius: as of `agreement`.

    Returns:
        Numbers from 0 to 255 by name; a region without pixels is left out.

    Raises:
        ConfigError: as `agreement`.
    """
    _check_samples(images, normals, masks, radius)
    difference, near = _difference(images, normals), dilate(masks, radius)
    regions = {"background_drift": ~masks, "drift_ring": near & ~masks, "drift_far": ~near}
    scores = {
        name: float(difference[region].mean()) * 255
        for name, region in regions.items()
        if bool(region.any())
    }
    if "drift_far" in scores:
        scores["drift_far_max"] = float(difference[~near].max()) * 255
    return scores


def dilate(masks: Tensor, radius: int) -> Tensor:
    """Grow masks (N, 1, H, W) bool by `radius` px to every side: the square of 2 radius + 1."""
    return dilated(masks.float(), radius) > 0


def _difference(images: Tensor, normals: Tensor) -> Tensor:
    return (images - normals).abs().mean(1, keepdim=True)


def _check_samples(images: Tensor, normals: Tensor, masks: Tensor, radius: int) -> None:
    check_images("images", images)
    check_images("normals", normals)
    check_masks("masks", masks)
    check_range("radius", radius, low=0, integer=True)
    count, _, height, width = images.shape
    if normals.shape != images.shape or masks.shape != (count, 1, height, width):
        raise ConfigError(
            "images, normals, masks: must have one normal picture and one mask of its size for "
            f"each image {tuple(images.shape)}; got {tuple(normals.shape)} and "
            f"{tuple(masks.shape)}; take all three from one batch"
        )

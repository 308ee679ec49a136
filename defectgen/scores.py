"""Simple scores of generated pairs that need no pretrained network, each with its protocol."""

from __future__ import annotations

import math

from torch import Tensor

from defectgen.batch import DefectBatch
from defectgen.data.images import PairSet
from defectgen.errors import ConfigError
from defectgen.metrics.change import agreement, drift
from defectgen.metrics.swd import swd_scores

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
            `defectgen.networks.defect.receptive_radius`.

    Returns:
        Finite numbers by name; the same for the same arguments.

    Raises:
        ConfigError: the samples have no masks or normals, another size, or there are too few.
    """
    images, masks, normals = _fields(real, samples)
    beside = drift(images, normals, masks, radius)
    areas = masks.float().mean((1, 2, 3))
    scores = {
        "area_real": float(real.masks.float().mean()),
        "area_generated": float(areas.mean()),
        "empty_masks": float((areas == 0).float().mean()),
        **agreement(images, normals, masks, radius),
        "background_drift": beside.get("background_drift", math.nan),
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

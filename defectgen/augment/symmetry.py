"""The mirrored and turned copies that a policy declares to be equally true pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from defectgen.augment.policy import AugmentPolicy

#: Copies are made while the set stays at most this large: few images gain, many need no help.
LARGEST_SET = 512


def with_symmetries(images: Tensor, policy: AugmentPolicy) -> Tensor:
    """Append the copies under flips and quarter turns that the policy grants.

    Args:
        images: (N, C, R, R), or masks (N, 1, R, R); copies come in the same order for both.
        policy: only ``flip_x``, ``flip_y`` and ``rot90`` count.

    Returns:
        (N * k, C, R, R), k one of 1, 2, 4, 8; the originals first.
    """
    result = [images]
    if policy.rot90 and 4 * len(images) <= LARGEST_SET:
        result = [images.rot90(k, (2, 3)) for k in range(4)]
    flips = [3] * policy.flip_x + [2] * (policy.flip_y and not policy.rot90)
    for axis in flips:
        if 2 * len(images) * len(result) <= LARGEST_SET:
            result += [part.flip(axis) for part in result]
    return images if len(result) == 1 else torch.cat(result)

"""Geometric augmentations 1 to 8 of ADA, composed into one inverse affine map per image.

A map leads from output to input positions, both in pixels from the image center, x to the right and
y down. Legend: N batch, S side in pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from defectgen.augment.policy import AugmentPolicy

#: Fields of the policy that move an image, in the order in which they do.
OPERATIONS = (
    "flip_x",
    "flip_y",
    "rot90",
    "translate_int",
    "scale",
    "rotate",
    "anisotropic",
    "translate_frac",
)
TRANSLATE_INT = 0.125  # of the side, uniform
TRANSLATE_FRAC_STD = 0.125  # of the side, normal
SCALE_STD = 0.2  # of log2 of the factor


class Numbers(NamedTuple):
    """What decides about the maps of n images: uniform in [0, 1), standard normal, and factors."""

    uniform: Tensor  # (n, 16)
    normal: Tensor  # (n, 4)
    shrinks: Tensor  # (n,)
    stretches: Tensor  # (n,)


def draw_numbers(n: int, generator: torch.Generator) -> Numbers:
    """Numbers for `compose`; those of several generators may be joined to one batch."""
    device = generator.device
    uniform = torch.rand((n, 16), generator=generator, device=device)
    normal = torch.randn((n, 4), generator=generator, device=device)
    # Here, because the last bit of exp2 depends on where in a tensor a number lies.
    shrinks, stretches = torch.exp2(normal[:, 0] * -SCALE_STD), torch.exp2(normal[:, 1] * SCALE_STD)
    return Numbers(uniform, normal, shrinks, stretches)


def draw_matrices(
    policy: AugmentPolicy, n: int, size: int, *, p: float, generator: torch.Generator
) -> Tensor:
    """Draw one composed inverse affine map per image (Karras et al. 2020, appendix B).

    Args:
        policy: Which operations may happen.
        n: Batch size N.
        size: Side S of the images in pixels.
        p: Probability of each operation, at least 0; 1 or more means always. The two rotations
            have 1 - sqrt(1 - p) each, so that either happens with probability p.
        generator: Source of randomness; what it yields depends on n only.

    Returns:
        (N, 3, 3) float32 on the generator's device; exactly the identity for images on which no
        operation is active.
    """
    return compose(policy, draw_numbers(n, generator), size, p=p)


def compose(policy: AugmentPolicy, numbers: Numbers, size: int, *, p: float) -> Tensor:
    """The maps (n, 3, 3) that these numbers mean; arguments and result as of `draw_matrices`."""
    uniform, normal = numbers.uniform.unbind(1), numbers.normal.unbind(1)
    p_rotate = 1.0 - math.sqrt(max(0.0, 1.0 - p))
    matrix = torch.eye(3, device=uniform[0].device).expand(len(uniform[0]), 3, 3)
    # The inverse of "first A, then B" is inv(A) inv(B): every operation multiplies on the right.
    if policy.flip_x:
        mirror = torch.where((uniform[0] < p) & (uniform[9] < 0.5), -1.0, 1.0)
        matrix = matrix @ _affine(mirror, 0.0, 0.0, 1.0)
    if policy.flip_y:
        mirror = torch.where((uniform[1] < p) & (uniform[10] < 0.5), -1.0, 1.0)
        matrix = matrix @ _affine(1.0, 0.0, 0.0, mirror)
    if policy.rot90:
        turns = torch.where(uniform[2] < p, torch.floor(uniform[11] * 4), 0.0)
        odd = turns % 2  # cosine and sine without rounding
        matrix = matrix @ _rotation((1 - turns) * (1 - odd), (2 - turns) * odd)
    if policy.translate_int:
        shift = [
            torch.where(uniform[3] < p, torch.round((u * 2 - 1) * (TRANSLATE_INT * size)), 0.0)
            for u in uniform[12:14]
        ]
        matrix = matrix @ _affine(1.0, 0.0, 0.0, 1.0, -shift[0], -shift[1])
    if policy.scale:
        shrink = torch.where(uniform[4] < p, numbers.shrinks, 1.0)
        matrix = matrix @ _affine(shrink, 0.0, 0.0, shrink)
    if policy.rotate:
        angle = torch.where(uniform[5] < p_rotate, (uniform[14] * 2 - 1) * math.pi, 0.0)
        matrix = matrix @ _rotation(angle.cos(), angle.sin())
    if policy.anisotropic:
        stretch = torch.where(uniform[6] < p, numbers.stretches, 1.0)
        matrix = matrix @ _affine(1 / stretch, 0.0, 0.0, stretch)
    if policy.rotate:
        angle = torch.where(uniform[7] < p_rotate, (uniform[15] * 2 - 1) * math.pi, 0.0)
        matrix = matrix @ _rotation(angle.cos(), angle.sin())
    if policy.translate_frac:
        moves = [
            torch.where(uniform[8] < p, g * (TRANSLATE_FRAC_STD * size), 0.0) for g in normal[2:4]
        ]
        matrix = matrix @ _affine(1.0, 0.0, 0.0, 1.0, -moves[0], -moves[1])
    return matrix


def _affine(
    xx: Tensor | float,  # each (N,) or one number
    xy: Tensor | float,
    yx: Tensor | float,
    yy: Tensor | float,
    x: Tensor | float = 0.0,
    y: Tensor | float = 0.0,
) -> Tensor:
    """Stack the six entries of an affine map to (N, 3, 3); at least one entry is a tensor."""
    entries = (xx, xy, x, yx, yy, y, 0.0, 0.0, 1.0)
    like = next(entry for entry in entries if isinstance(entry, Tensor))
    columns = [e if isinstance(e, Tensor) else torch.full_like(like, e) for e in entries]
    return torch.stack(columns, dim=1).view(-1, 3, 3)


def _rotation(cos: Tensor, sin: Tensor) -> Tensor:
    """Output to input positions of a counterclockwise turn, (N, 3, 3), with y pointing down."""
    return _affine(cos, -sin, sin, cos)

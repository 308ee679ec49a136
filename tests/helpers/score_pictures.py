"""Pictures for the tests of scores: smooth, random, the same in every run."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from defectgen.rng import generator

SIDE = 32


def textured(count: int, seed: int, channels: int = 3) -> torch.Tensor:
    """Smooth random pictures (count, channels, SIDE, SIDE) in [0.1, 0.9]."""
    coarse = torch.rand(count, channels, 10, 10, generator=generator(seed, "scores"))
    smooth = F.interpolate(coarse, size=SIDE, mode="bicubic", align_corners=False)
    return (0.1 + 0.8 * smooth).clamp(0.1, 0.9)


def eight_bit(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8)

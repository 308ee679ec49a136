"""Color augmentations 9 to 13 of ADA, composed into one affine map of the channels per image.

Legend: N batch, C channels, H, W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from defectgen.augment.policy import AugmentPolicy
from defectgen.errors import ImageError

BRIGHTNESS_STD = 0.2
CONTRAST_STD = 0.5  # of log2 of the factor
SATURATION_STD = 1.0  # of log2 of the factor


def draw_color_matrices(
    policy: AugmentPolicy,
    n: int,
    *,
    p: float,
    generator: torch.Generator,
    channels: int = 3,
) -> Tensor:
    """Draw one affine color map per image (Karras et al. 2020, appendix B, spec ops 9 to 13).

    With contrast c, brightness b, luma sign l, saturation s and hue angle t the composition of the
    five operations in their order is x -> c (l P + s (cos t Q + sin t K)) x + c l b, where P and Q
    project on luma, along v = (1, 1, 1) / sqrt(3), and on chroma, and K is the cross product with
    v.

    Args:
        policy: Which operations may happen.
        n: Batch size N.
        p: Probability of each operation, at least 0; 1 or more means always.
        generator: Source of randomness; what it yields depends on n only.
        channels: 3, or 1 for grey images, which have neither hue nor saturation.

    Returns:
        (N, C, C + 1) float32 on the generator's device: linear part, then offset; exactly the
        identity for images on which no operation is active.

    Raises:
        ImageError: channels is neither 1 nor 3.
    """
    check_channels(channels)
    device = generator.device
    uniform = torch.rand((n, 7), generator=generator, device=device).unbind(1)
    normal = torch.randn((n, 3), generator=generator, device=device).unbind(1)
    brightness = hue = torch.zeros(n, device=device)
    contrast = luma = saturation = torch.ones(n, device=device)
    if policy.brightness:
        brightness = torch.where(uniform[0] < p, normal[0] * BRIGHTNESS_STD, 0.0)
    if policy.contrast:
        contrast = torch.where(uniform[1] < p, torch.exp2(normal[1] * CONTRAST_STD), 1.0)
    if policy.luma_flip:
        luma = torch.where((uniform[2] < p) & (uniform[5] < 0.5), -1.0, 1.0)
    if policy.hue:
        hue = torch.where(uniform[3] < p, (uniform[6] * 2 - 1) * math.pi, 0.0)
    if policy.saturation:
        saturation = torch.where(uniform[4] < p, torch.exp2(normal[2] * SATURATION_STD), 1.0)
    offset = contrast * luma * brightness
    if channels == 1:
        return torch.stack([contrast * luma, offset], dim=1).view(n, 1, 2)
    # P, Q and K are circulant, so one row says all.
    along, across = saturation * hue.cos() / 3, saturation * hue.sin() / math.sqrt(3)
    entry = [luma / 3 + 2 * along, luma / 3 - along - across, luma / 3 - along + across]
    # 1/3 + 2/3 need not be 1 in float32, and an image with no active operation must not change.
    plain = (luma == 1) & (hue == 0) & (saturation == 1)
    a, b, c = (contrast * torch.where(plain, float(i == 0), value) for i, value in enumerate(entry))
    rows = [a, b, c, offset, c, a, b, offset, b, c, a, offset]
    return torch.stack(rows, dim=1).view(n, 3, 4)


def check_channels(channels: int) -> None:
    """Raise ImageError unless the images are grey or RGB."""
    if channels not in (1, 3):
        raise ImageError(
            f"images: must have 1 or 3 channels to be augmented; got {channels}; pass masks "
            "separately and convert the images to grey or RGB"
        )


def apply_color(
    images: Tensor,  # (N, C, H, W) float
    matrices: Tensor,  # (N, C, C + 1) float32
) -> Tensor:
    """Map the channels of each image by its own affine map.

    Args:
        images: (N, C, H, W) floating, nominally in [-1, 1], C 1 or 3, any device.
        matrices: (N, C, C + 1) from `draw_color_matrices`, any device.

    Returns:
        (N, C, H, W), same dtype and device, not clamped; `images` itself where
        CPU matrices are all identities.

    Raises:
        ImageError: the images have a channel count other than 1 or 3.
    """
    n, channels, height, width = images.shape
    check_channels(channels)
    identity = torch.eye(channels, channels + 1)
    # Only on the CPU: elsewhere the question would wait for the accelerator.
    if matrices.device.type == "cpu" and bool((matrices == identity).all()):
        return images
    work = images if images.dtype == torch.float64 else images.float()
    maps = matrices.to(device=images.device, dtype=work.dtype)
    flat = torch.baddbmm(maps[:, :, channels:], maps[:, :, :channels], work.flatten(2))
    return flat.view(n, channels, height, width).to(images.dtype)

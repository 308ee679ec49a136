"""The grain of a texture: what remains of photos without their shading, drawn at other places."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from defectgen.networks.known import as_bytes, levels_of
from defectgen.rng import Noise, generator

#: Name of the numbers that choose a field, and its place.
STREAM = "grain"
#: The shading of a photo is the mean over a Gaussian window of this share of its side.
SHADE = 1 / 4
#: Shading is computed on pictures of at most so many pixels a side: it has no more to show.
SHADE_SIDE = 64
#: Fields are kept in so many steps a unit; white and black differ by 2.
STEPS = 2**13


class Grain(nn.Module):
    """Photos without their shading, moved around: what goes out at one border comes in opposite.

    A texture looks alike everywhere, so its grain is as good at any other place, below any other
    shading. Random phases with the spectrum of the photos, which hold all that is to know of a
    micro-texture, lack what stands alone: bright lines, dots, and edges (docs/lab-notes.md).

    Attributes:
        fields: int16 (K, C, R, R), fixed, in STEPS a unit; 0 before photos were seen.
    """

    fields: Tensor

    def __init__(self, channels: int, resolution: int, count: int) -> None:
        super().__init__()
        size = count, channels, resolution, resolution
        self.register_buffer("fields", torch.zeros(size, dtype=torch.int16))

    @torch.no_grad()
    def set(self, images: Tensor, plain: Tensor | None = None) -> None:
        """Keep what images (n, C, R, R), n at least K, are without shading, or one plain color."""
        # Not every so many, for mirrored copies may follow the photos in blocks.
        order = torch.randperm(len(images), generator=generator(0, STREAM))[: len(self.fields)]
        for row, k in enumerate(order.tolist()):
            image = images[k]
            if plain is None:
                field = image - enlarged(shading(image[None]), image.shape[-1])[0]
                # Else where opposite borders meet an edge would show.
                field = field - smooth_part(field)
            else:
                field = image - plain
            self.fields[row] = (field * STEPS).round().clamp(-4 * STEPS, 4 * STEPS - 1).short()

    def forward(self, w: Tensor, noise: Noise) -> Tensor | None:
        """w (N, W) -> (N, C, R, R), a field for each row; None where there is no noise."""
        drawn = noise(STREAM, len(w), 2)
        if drawn is None:
            return None
        count, side = len(self.fields), self.fields.shape[-1]
        even = torch.special.ndtr(drawn.flatten(1).double())  # (N, 4), uniform; three are used
        chosen, down, across = (
            (even[:, k] * n).long().clamp_max(n - 1).to(self.fields.device)
            for k, n in enumerate((count, side, side))
        )
        steps = torch.arange(side, device=self.fields.device)
        rows, columns = ((steps - shift[:, None]) % side for shift in (down, across))
        found = self.fields[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        field: Tensor = rearrange(found, "n h w c -> n c h w").to(w.dtype) / STEPS
        return field


def plain_color(images: Tensor) -> Tensor | None:
    """The mean color (C, 1, 1) of images (n, C, R, R) in [-1, 1] that are black and white.

    Print and circuits have no shading: whatever else is added to their fields makes them gray.
    None if there is gray, see `levels_of`.
    """
    everywhere = torch.ones_like(images[0, :1])
    levels = levels_of((as_bytes(image), everywhere) for image in images)
    return None if levels is None else images.mean(dim=(0, 2, 3)).view(-1, 1, 1)


def shading(images: Tensor) -> Tensor:
    """What is left of images (n, C, R, R) without grain, (n, C, s, s), s enough to show it."""
    small = F.adaptive_avg_pool2d(images, min(images.shape[-1], SHADE_SIDE))
    sigma = SHADE * small.shape[-1]
    reach = min(round(3 * sigma), small.shape[-1] - 1)
    steps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    window = (-steps.square() / (2 * sigma**2)).exp()
    window = (window / window.sum()).view(1, 1, 1, -1)
    planes = F.pad(small.flatten(0, 1).unsqueeze(1), 4 * [reach], mode="reflect")
    return F.conv2d(F.conv2d(planes, window), window.transpose(2, 3)).view_as(small)


def enlarged(small: Tensor, side: int) -> Tensor:
    """Shading (n, C, s, s) at this side; linear, so that of a sum is the sum."""
    if small.shape[-1] == side:
        return small
    return F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)


def smooth_part(field: Tensor) -> Tensor:
    """What of a field (C, R, R) shows as an edge where its opposite borders meet, (C, R, R).

    It differs as much from border to border, and is harmonic inside (Moisan: Periodic plus Smooth
    Image Decomposition, Journal of Mathematical Imaging and Vision 39, 2011).
    """
    side = field.shape[-1]
    jumps = torch.zeros_like(field, dtype=torch.float64)
    for axis in (1, 2):
        step = field.select(axis, side - 1) - field.select(axis, 0)
        jumps.select(axis, 0).add_(step)
        jumps.select(axis, side - 1).sub_(step)
    turns = torch.arange(side, dtype=jumps.dtype, device=field.device) * (2 * math.pi / side)
    laplacian = 2 * (turns.cos()[:, None] + turns.cos()[: side // 2 + 1]) - 4
    laplacian[0, 0] = 1  # jumps have no mean, and neither has their part
    found: Tensor = torch.fft.irfft2(torch.fft.rfft2(jumps) / laplacian, s=(side, side))
    return found.to(field.dtype)

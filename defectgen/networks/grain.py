"""The grain of a texture: what remains of photos without their shading, as a stationary field."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen.networks.layers import Linear
from defectgen.networks.principal import fit_line, principal
from defectgen.rng import Noise

#: Name of its noise planes, one for each color.
STREAM = "grain"
#: The shading of a photo is the mean over a Gaussian window of this share of its side.
SHADE = 1 / 8
#: Shading is computed on pictures of at most so many pixels a side: it has no more to show.
SHADE_SIDE = 64
#: A spectrum has at least this amplitude; white and black differ by 2. A quarter of a gray level.
FLOOR = 0.002
#: Steps by which the blur of the Hann window is taken from the mean spectrum: with 5, 20, 100 the
#: KID of fabric is 49, 40, 38 instead of 85, that of tiles the same (docs/lab-notes.md).
SHARPENINGS = 20
#: Nothing is divided by less.
TINY = 1e-30
#: Variance of log|A| of a complex normal number: an amplitude of grain is that much chance.
CHANCE = math.pi**2 / 24
#: Cells of the spectrum, down and across, by which photos are told apart.
CELLS = (16, 8)
#: At most so many numbers of spectra are kept while components are found, of FEWEST photos or more.
NUMBERS, FEWEST = 2**25, 32


class Grain(nn.Module):
    """A field of random phases, whose spectrum depends on w.

    A micro-texture is told by its spectrum alone, and phases may be drawn at random (Galerne,
    Gousseau, Morel: Random Phase Textures, IEEE Transactions on Image Processing 20(1), 2011). The
    logarithm of the amplitude is linear in w, so photos of other contrast, direction, and
    coarseness of grain lie on one plane. Phases are those of white noise, whose amplitudes are left
    out: a weave of few frequencies would be strong in one sample and missing in the next. Colors
    are fixed axes, each with a field of its own.

    Attributes:
        mean: (C, R, R // 2 + 1), fixed: logarithm of the amplitude at each frequency.
        components: (K, C, R, R // 2 + 1), fixed; scaled so that coefficients vary by about one.
        axes: (C, C), fixed: a column is the color of a field.
    """

    mean: Tensor
    components: Tensor
    axes: Tensor

    def __init__(self, channels: int, resolution: int, w_dim: int, components: int) -> None:
        super().__init__()
        size = channels, resolution, resolution // 2 + 1
        self.register_buffer("mean", torch.full(size, -30.0))  # no grain before any was seen
        self.register_buffer("components", torch.zeros(components, *size))
        self.register_buffer("axes", torch.eye(channels))
        self.coefficients = Linear(w_dim, components)

    @torch.no_grad()
    def set(self, images: Tensor, codes: Tensor) -> None:
        """Spectra of images (n, C, R, R) less their shading, coefficients from codes (n, W)."""
        stride = -(-len(images) // max(FEWEST, NUMBERS // self.mean.numel()))
        images, codes = images[::stride], codes[::stride]
        self.axes.copy_(color_axes(images))
        found = spectra(images, self.axes)
        mean = found.mean(dim=0)
        scores, basis = principal((found - mean).flatten(1), len(self.components))
        # Of what a component varies by, so much is chance: that of few photos would be all.
        chance = CHANCE * mean.numel() / len(images)
        left = 1 - chance / basis.square().sum(dim=1, keepdim=True)
        basis = basis * left.clamp_min(0).sqrt()
        self.components.zero_()[: len(basis)] = basis.view(-1, *mean.shape)
        fit_line(self.coefficients, codes, scores)
        # On average over the photos a frequency has the power that it has there. The logarithm's
        # mean is less than that of chance, as of grain, not of a line of a weave.
        told = self.coefficients(codes)[:, : len(basis)] @ basis
        power = (2 * found.double()).exp().mean(dim=0)
        power = power / (2 * told.double()).exp().mean(dim=0).view_as(mean)
        self.mean.copy_(sharpened(power).log() / 2)

    def forward(self, w: Tensor, noise: Noise) -> Tensor | None:
        """w (N, W) -> (N, C, R, R), a draw of each field; None where there is no noise."""
        channels, side = self.mean.shape[:2]
        planes = [noise(f"{STREAM}{k}", len(w), side) for k in range(channels)]
        drawn = [plane for plane in planes if plane is not None]
        if len(drawn) < channels:
            return None
        white = torch.cat(drawn, dim=1).to(w)
        if not len(w):  # no transform takes an empty batch
            return white
        weights: Tensor = self.coefficients(w)
        change = (weights @ self.components.flatten(1)).view(-1, *self.mean.shape)
        amplitude = (self.mean + change).exp()
        phases = torch.fft.rfft2(white)
        phases = phases * (side / phases.abs().clamp_min(TINY))
        field = torch.fft.irfft2(phases * amplitude, s=(side, side))
        return torch.einsum("ndhw,cd->nchw", field, self.axes)


def shading(images: Tensor) -> Tensor:
    """What is left of images (n, C, R, R) without their grain."""
    return enlarged(small_shading(images), images.shape[-1])


def small_shading(images: Tensor) -> Tensor:
    """The same (n, C, s, s) at a side s that is enough for it."""
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


def color_axes(images: Tensor) -> Tensor:
    """Principal axes of the colors of grain, columns of (C, C)."""
    total = torch.zeros(2 * [images.shape[1]], dtype=torch.float64, device=images.device)
    for some in torch.split(images, FEWEST):  # of large photos all at once would take much
        flat = (some - shading(some)).transpose(0, 1).flatten(1).double()
        total += flat @ flat.t()
    _, axes = torch.linalg.eigh(total / images[:, 0].numel())
    # Which way an axis points changes no field, but two machines should agree on it.
    signs = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    found: Tensor = (axes * signs).to(images.dtype)
    return found


def spectra(images: Tensor, axes: Tensor) -> Tensor:
    """Logarithms of the amplitudes (n, C, R, R // 2 + 1) of the grain along color axes (C, C).

    White noise of variance 1 has the amplitude 1 everywhere.
    """
    side = images.shape[-1]
    window = torch.hann_window(side + 2, periodic=False, dtype=images.dtype, device=images.device)
    # Without it borders would be edges that the grain lacks.
    window = window[1:-1, None] * window[None, 1:-1]
    window = window / window.square().mean().sqrt()
    grain = torch.einsum("nchw,cd->ndhw", images - shading(images), axes)
    power = torch.fft.rfft2(grain * window).abs().square() / side**2
    found: Tensor = (power + FLOOR**2).log() / 2
    return found


def sharpened(power: Tensor) -> Tensor:
    """Powers (C, R, R // 2 + 1) float64 as they were before the Hann window blurred them.

    By the iteration of Richardson (1972) and Lucy (1974), which keeps them positive, and their sum.
    Lines of a weave, one frequency wide, would else fade in and out across a sample.
    """
    side = power.shape[1]
    turns = torch.arange(side, dtype=power.dtype, device=power.device) * (2 * math.pi / side)
    # The blur, 1/6 of the power to either side, is a product where the correlations are.
    lags = (2 + turns.cos()) / 3
    lags = lags[:, None] * lags

    def blurred(some: Tensor) -> Tensor:
        found: Tensor = torch.fft.rfft2(torch.fft.irfft2(some, s=(side, side)) * lags).real
        return found.clamp_min(TINY)

    found = power
    for _ in range(SHARPENINGS):
        found = found * blurred(power / blurred(found))
    return found


def features(images: Tensor) -> Tensor:
    """What tells textures apart, (n, F): shading and spectrum, in coarse cells, of like weight."""
    axes = color_axes(images)
    shade, found = [], []
    for some in torch.split(images, FEWEST):
        shade.append(F.adaptive_avg_pool2d(some, 8).flatten(1))
        whole = torch.fft.fftshift(spectra(some, axes), dim=2)
        found.append(F.adaptive_avg_pool2d(whole, CELLS).flatten(1))
    parts = [torch.cat(shade), torch.cat(found)]
    parts = [part - part.mean(dim=0) for part in parts]
    strengths = [float(torch.linalg.matrix_norm(part.double(), 2)) for part in parts]
    return torch.cat([p / max(s, math.ulp(1.0)) for p, s in zip(parts, strengths, strict=True)], 1)


def without_grain(noise: Noise) -> Noise:
    """The same noise for the layers, and none for the grain: a reconstruction knows no phases."""

    def planes(layer: str, batch: int, resolution: int) -> Tensor | None:
        return None if layer.startswith(STREAM) else noise(layer, batch, resolution)

    return planes

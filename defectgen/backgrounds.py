"""Good photos below defects: a defect drawn on them instead of on a part that a backbone draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from defectgen.data.images import ImageSet, load_images
from defectgen.data.sources import ImageSource
from defectgen.errors import ConfigError
from defectgen.networks.known import thumbnail, told
from defectgen.networks.synthesis import Generator
from defectgen.rng import generator, latents, no_noise, sample_seeds

#: Good parts of the backbone among which each photo finds the one most like it.
CANDIDATES = 256
#: Rendered at once, where a backbone has no base image.
RENDERED = 32

#: Good photos, or what was read from them before.
GoodImages = ImageSource | ImageSet


@dataclass(frozen=True, eq=False)
class Backgrounds:
    """Good photos, and what the backbone knows of each.

    Attributes:
        images: uint8 (n, C, R, R), on the CPU.
        names: the file name of each, or its position.
        objects: (n, W), latents of the good part most like each photo, on the backbone's device.
        learned: whether these parts are like the photos.
    """

    images: Tensor
    names: tuple[str, ...]
    objects: Tensor
    learned: bool

    def picked(self, seeds: Sequence[int]) -> list[int]:
        """Which photo each sample stands on: that of a sample depends on its seed alone."""
        count = len(self.images)
        draws = [torch.randint(count, (), generator=generator(k, "background")) for k in seeds]
        return [int(draw) for draw in draws]


def read_photos(network: Generator, source: GoodImages, name: str = "good_images") -> ImageSet:
    """Good photos at the size of a backbone; ``name`` is the argument as the user wrote it.

    Raises:
        ImageError: listing every unusable image.
        ConfigError: photos that were read at another size.
    """
    channels, side = network.config.channels, network.config.resolution
    if not isinstance(source, ImageSet):
        return load_images(source, resolution=side, channels=channels, name=name)
    if source.images.shape[1:] != (channels, side, side):
        raise ConfigError(
            f"{name}: images of the backbone's size {(channels, side, side)}; got "
            f"{tuple(source.images.shape[1:])}; load them with its resolution and channels"
        )
    return source


def find_backgrounds(network: Generator, source: GoodImages) -> Backgrounds:
    """Read good photos as `read_photos` does, and find what the backbone knows of each."""
    data = read_photos(network, source)
    return Backgrounds(data.images, data.names, *_objects(network, data.images))


@torch.no_grad()
def _objects(network: Generator, images: Tensor) -> tuple[Tensor, bool]:
    """Latents (n, W) of the good parts most like images (n, C, R, R) uint8; is it like them?"""
    device, base = network.mapping.w_avg.device, network.synthesis.base
    seeds = sample_seeds(CANDIDATES, 0)
    w: Tensor = network.mapping(latents(seeds, network.config.z_dim, "object").to(device))
    if base is None:
        parts = torch.split(w, RENDERED)
        drawn = [thumbnail(network.synthesis(network.broadcast(p), no_noise)) for p in parts]
        known = torch.cat(drawn)
    else:
        known = thumbnail(base(w))
    # One by one: in float32 thousands of photos would take gigabytes.
    photos = torch.cat([thumbnail(image[None].to(device) / 127.5 - 1) for image in images])
    nearest = [(photo - known).abs().sum((1, 2, 3)).argmin() for photo in photos]
    found = torch.stack(nearest)
    return w[found], told(photos, known[found])

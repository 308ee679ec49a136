"""Good photos below defects: a defect drawn on them instead of on a part that a backbone draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from defectgen.data.images import ImageSet, count_copies, load_images
from defectgen.data.sources import ImageSource
from defectgen.errors import ConfigError, DataWarning
from defectgen.memory import kept_memory
from defectgen.messages import warn
from defectgen.networks.defect import DefectBranch
from defectgen.networks.known import KnownDefects, explained, thumbnail
from defectgen.networks.layers import constant_weights
from defectgen.networks.synthesis import Generator
from defectgen.rng import generator, latents, no_noise, sample_seeds

#: Good parts of the backbone among which each photo finds the one most like it; fewer where it has
#: no base image, and each has to be rendered, so many at once.
CANDIDATES, RENDERED, AT_ONCE = 256, 32, 8

#: Good photos, or what was read from them before.
GoodImages = ImageSource | ImageSet


@dataclass(frozen=True, eq=False)
class Backgrounds:
    """Good photos, and what the backbone knows of each.

    Attributes:
        images: uint8 (n, C, R, R), on the CPU.
        names: the file name of each, or its position; with the position in brackets where names
            repeat, so that no two are equal.
        objects: (n, W), latents of the good part most like each photo, on the backbone's device.
        learned: whether the backbone's parts are like those of the defect's photos.
    """

    images: Tensor
    names: tuple[str, ...]
    objects: Tensor
    learned: bool

    def picked(self, seeds: Sequence[int], turn: int = 0) -> list[int]:
        """A photo for each sample, by its seed alone; drawn anew for each ``turn``."""
        count = len(self.images)
        sources = (generator(k, "background", *([turn] if turn else [])) for k in seeds)
        return [int(torch.randint(count, (), generator=source)) for source in sources]

    def signed(self, index: Sequence[int]) -> Tensor:
        """These photos in [-1, 1], (N, C, R, R), on the device of the backbone."""
        return self.images[list(index)].to(self.objects) / 127.5 - 1


def known_of(branch: DefectBranch, name: str = "good_images") -> KnownDefects:
    """The defects that a branch can draw on photos.

    Raises:
        ConfigError: its masks are learned, so inside them it draws a whole part.
    """
    if branch.known is None:
        raise ConfigError(
            f"{name}: only defects learned by this library's recipe are drawn on photos; got a "
            f'synthesizer of the preset "dfmgan"; leave {name} out, or fit without preset'
        )
    return branch.known


def read_photos(
    network: Generator, branch: DefectBranch, source: GoodImages, name: str = "good_images"
) -> ImageSet:
    """Good photos at the size of a backbone; ``name`` is the argument as the user wrote it.

    Raises:
        ImageError: listing every unusable image.
        ConfigError: photos that were read at another size, or a branch as in `known_of`.
    """
    known_of(branch, name)
    channels, side = network.config.channels, network.config.resolution
    if not isinstance(source, ImageSet):
        return load_images(source, resolution=side, channels=channels, name=name)
    images = source.images
    if not len(images):
        raise ConfigError(f"{name}: at least one photo; got none; pass some")
    if images.shape[1:] != (channels, side, side):
        raise ConfigError(
            f"{name}: images of the backbone's size {(channels, side, side)}; got "
            f"{tuple(images.shape[1:])}; load them with its resolution and channels"
        )
    return source


def find_backgrounds(network: Generator, branch: DefectBranch, source: GoodImages) -> Backgrounds:
    """Read good photos as `read_photos` does, and find what the backbone knows of each.

    Warns:
        DataWarning: photos of which the defect was learned are among them.
    """
    data, known = read_photos(network, branch, source), known_of(branch)
    copies = count_copies(data.images, known.images.cpu())
    if copies:
        warn(
            f"good_images: parts without a defect; got {copies} of {len(data.images)} photos from "
            "which the defect was learned, which no mask of a sample would tell; leave these out",
            DataWarning,
        )
    names = data.names
    if len(set(names)) < len(names):
        names = tuple(f"{name} [{k}]" for k, name in enumerate(names))
    objects, parts = _parts(network)
    photos, seen = _thumbnails(data.images, parts), parts.new_ones(len(data.images), 1, 1, 1)
    nearest = _nearest(photos, seen, parts)
    # By the photos of the defect, so that no picture among the good ones changes the others.
    learned = _explained_by(parts, known)
    if learned is None:  # the defect hides them whole
        learned = explained(photos, parts[nearest])
    return Backgrounds(data.images, names, objects[nearest], learned)


def learned_by(network: Generator, known: KnownDefects) -> bool:
    """Whether the backbone has learned the product, as far as the photos of the defect tell."""
    if known.learned is None:  # once: it takes as long as to draw some samples
        known.learned = _explained_by(_parts(network)[1], known) is not False
    return known.learned


def _explained_by(parts: Tensor, known: KnownDefects) -> bool | None:
    """Whether good parts, thumbnails (k, C, S, S), explain what defects leave of their photos.

    None if they hide them whole.
    """
    pairs, clear = _thumbnails(known.images, parts), _clear(known.masks, parts)
    if not clear.any():
        return None
    return explained(pairs, parts[_nearest(pairs, clear, parts)], clear)


@torch.no_grad()
def _parts(network: Generator) -> tuple[Tensor, Tensor]:
    """Latents of good parts (k, W), and their thumbnails (k, C, S, S)."""
    device, base = network.mapping.w_avg.device, network.synthesis.base
    seeds = sample_seeds(RENDERED if base is None else CANDIDATES, 0)
    w: Tensor = network.mapping(latents(seeds, network.config.z_dim, "object").to(device))
    if base is not None:
        return w, torch.cat([thumbnail(base(some)) for some in torch.split(w, AT_ONCE)])
    with kept_memory(), constant_weights(network):
        drawn = [
            thumbnail(network.synthesis(network.broadcast(some), no_noise))
            for some in torch.split(w, AT_ONCE)
        ]
    return w, torch.cat(drawn)


def _thumbnails(images: Tensor, like: Tensor) -> Tensor:
    """Images uint8 (N, C, R, R) as thumbnails in [-1, 1]; one by one, for all would take much."""
    return torch.cat([thumbnail(image[None].to(like) / 127.5 - 1) for image in images])


def _clear(masks: Tensor, like: Tensor) -> Tensor:
    """Which cells no defect hides, 0 or 1, (N, 1, S, S)."""
    covers = torch.cat([thumbnail(mask[None].to(like)) for mask in masks])
    return (covers == 0).to(like)


def _nearest(thumbnails: Tensor, seen: Tensor, parts: Tensor) -> Tensor:
    """For each thumbnail the part that differs least in the cells seen: (n,)."""
    pairs = zip(thumbnails, seen, strict=True)
    return torch.stack([((one - parts).abs() * w).sum((1, 2, 3)).argmin() for one, w in pairs])

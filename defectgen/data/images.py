"""The funnel: everything a user hands over becomes checked tensors here, and nowhere else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from defectgen.checks import check_channels, check_resolution
from defectgen.data.folders import pair_folders
from defectgen.data.masks import decode_mask, list_masks, resize_mask
from defectgen.data.orientation import TURNED, turned_apart
from defectgen.data.pictures import MIN_SIDE, decode_image, resize_image, split_batch
from defectgen.data.sources import (
    Findings,
    ImageSource,
    Item,
    Unusable,
    list_items,
    problem_text,
    read_size,
)
from defectgen.errors import ImageError, MaskError

MAX_AUTO_SIDE = 256

_ENLARGED = "are smaller than the resolution and were enlarged: a smaller resolution loses nothing"
_DUPLICATE = "repeat an earlier image: copies count double, and hide in splits"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images ready for training.

    Attributes:
        images: (N, C, R, R) uint8 in RGB order, on the CPU.
        names: the file name of each image, or its position.
        digest: "sha256:" and the hash over shape and bytes of `images`; paths do not enter it.
    """

    images: Tensor  # (N, C, R, R)
    names: tuple[str, ...]
    digest: str

    def only(self, chosen: Tensor) -> ImageSet:
        """Those for which ``chosen``, (N,) bool, is true."""
        images = self.images[chosen]
        names = (n for n, one in zip(self.names, chosen.tolist(), strict=True) if one)
        return ImageSet(images, tuple(names), _digest(images))


@dataclass(frozen=True, eq=False)
class PairSet:
    """Defect images with their masks, ready for training.

    Attributes:
        images: (N, C, R, R) uint8 in RGB order, on the CPU.
        masks: (N, 1, R, R) uint8, 1 on the defect and 0 elsewhere.
        names: the file name of each image, or its position.
        digest: "sha256:" and the hash over shapes and bytes of both.
    """

    images: Tensor  # (N, C, R, R)
    masks: Tensor  # (N, 1, R, R)
    names: tuple[str, ...]
    digest: str


def load_images(
    source: ImageSource, *, resolution: int | None, channels: int, name: str = "good_images"
) -> ImageSet:
    """Read, check and resize images.

    Args:
        source: A folder (png, jpg, jpeg, bmp, tif, tiff, webp; by name, without subfolders); or a
            sequence of paths, PIL images, uint8 arrays (H, W) or (H, W, C), or what the loaders
            of data sets give; or one tensor or array (N, C, H, W), uint8 or float in [0, 1].
            Images must be square, of at least 32 pixels and at most 64 megapixels. EXIF
            orientation is applied, palettes become RGB, 16-bit gray is divided by 257, an opaque
            alpha channel is dropped.
        resolution: A power of two from 32 to 1024; None takes the largest power of two that is
            not above the smallest side of all images, but at most 256.
        channels: 3 repeats gray to RGB; 1 accepts RGB only if it is gray.
        name: The argument, as the user wrote it.

    Raises:
        ConfigError: `resolution` or `channels` is out of its range.
        ImageError: images cannot be used; all of them are listed.
    """
    _check(resolution, channels)
    items = _list_images(source, name)
    side = resolution or _auto_resolution(items)
    found = Findings(name, len(items))
    tensors = []
    for item in items:
        picture = _decode(item, side, channels, found)
        if picture is not None:
            tensors.append(resize_image(picture, side))
    if found.problems:
        raise ImageError(problem_text(name, found.problems, len(items)))
    _note_duplicates(items, tensors, found)
    found.warn()
    images = torch.stack(tensors)
    return ImageSet(images, tuple(item.name for item in items), _digest(images))


def load_pairs(
    images: ImageSource,
    masks: ImageSource,
    *,
    resolution: int | None,
    channels: int,
    names: tuple[str, str] = ("defect_imgs", "masks"),
) -> PairSet:
    """Read, check and resize defect images and their masks.

    Two folders are paired by name (`data.folders`); everything else by position.

    Args:
        images: As in `load_images`.
        masks: A folder; or a sequence of paths, PIL images or arrays; or one tensor or array
            (N, 1, H, W) or (N, H, W). Codings: see `data.masks.decode_mask`. Every mask has the
            size of its image.
        resolution: As in `load_images`.
        channels: As in `load_images`.
        names: The arguments, as the user wrote them.

    Raises:
        ConfigError: `resolution` or `channels` is out of its range.
        ImageError: images cannot be used; all of them are listed, bad masks too.
        MaskError: masks cannot be used or do not fit their images; all of them are listed.
    """
    _check(resolution, channels)
    pictures, drawn = _list_pairs(images, masks, *names)
    side = resolution or _auto_resolution(pictures)
    found = Findings(names[0], len(pictures)), Findings(names[1], len(drawn))
    pairs = []
    for item, mask_item in zip(pictures, drawn, strict=True):
        picture = _decode(item, side, channels, found[0])
        mask = _decode_mask(mask_item, found[1])
        if (
            picture is not None
            and mask is not None
            and _fits(item, picture, mask_item, mask, found[1])
        ):
            pairs.append((resize_image(picture, side), torch.from_numpy(resize_mask(mask, side))))
    _raise_problems(*found)
    stacked = torch.stack([image for image, _ in pairs])
    stacked_masks = torch.stack([mask for _, mask in pairs])[:, None].to(torch.uint8)
    _note_duplicates(pictures, stacked, found[0])
    for findings in found:
        findings.warn()
    files = tuple(item.name for item in pictures)
    return PairSet(stacked, stacked_masks, files, _digest(stacked, stacked_masks))


def count_copies(images: Tensor, *others: Tensor) -> int:
    """How many of these images, uint8 (N, C, R, R), are among the others, to the byte."""
    elsewhere = {image.numpy().tobytes() for some in others for image in some}
    return sum(image.numpy().tobytes() in elsewhere for image in images)


def _check(resolution: int | None, channels: int) -> None:
    if resolution is not None:
        check_resolution(resolution)
    check_channels(channels)


def _list_images(source: object, name: str) -> list[Item]:
    if isinstance(source, (Tensor, np.ndarray)):
        return split_batch(source, name)
    return list_items(source, name)


def _list_pairs(
    images: ImageSource, masks: ImageSource, name: str, masks_name: str
) -> tuple[list[Item], list[Item]]:
    folders = isinstance(images, (str, os.PathLike)), isinstance(masks, (str, os.PathLike))
    if all(folders):
        left, right = pair_folders(
            images,  # type: ignore[arg-type]
            masks,  # type: ignore[arg-type]
            images_name=name,
            masks_name=masks_name,
        )
        return (
            [Item(path.name, path.name, path) for path in left],
            [Item(path.name, path.name, path) for path in right],
        )
    if any(folders):
        kinds = ["a folder" if folder else "no folder" for folder in folders]
        raise MaskError(
            f"{masks_name}: must be a folder if and only if that of the images is one; got "
            f"{kinds[0]} of images and {kinds[1]} of masks; pass two folders or two lists"
        )
    if masks is None:
        raise MaskError(f"{masks_name}: one per image is needed; got None; pass the masks")
    pictures, drawn = _list_images(images, name), list_masks(masks, masks_name)
    if len(pictures) != len(drawn):
        raise MaskError(
            f"{masks_name}: must be as many as the images, {len(pictures)}; got {len(drawn)}; "
            "pass one mask per image in the same order"
        )
    return pictures, drawn


def _auto_resolution(items: Sequence[Item]) -> int:
    # What cannot be read is left out here and named by the decoding that follows.
    sizes = [size for item in items if (size := read_size(item.value)) is not None]
    smallest = min((min(size) for size in sizes), default=MIN_SIDE)
    return 1 << (min(max(smallest, MIN_SIDE), MAX_AUTO_SIDE).bit_length() - 1)


def _decode(item: Item, side: int, channels: int, found: Findings) -> Image.Image | None:
    try:
        picture, remarks = decode_image(item.value, channels)
    except Unusable as error:
        found.problems[item.label] = str(error)
        return None
    found.note(item.label, remarks + ([_ENLARGED] if picture.width < side else []))
    return picture


def _decode_mask(item: Item, found: Findings) -> NDArray[np.bool_] | None:
    try:
        mask, remark = decode_mask(item.value)
    except Unusable as error:
        found.problems[item.label] = str(error)
        return None
    found.note(item.label, [remark] if remark else [])
    return mask


def _fits(
    item: Item, picture: Image.Image, mask_item: Item, mask: NDArray[np.bool_], found: Findings
) -> bool:
    height, width = mask.shape
    if (width, height) == picture.size:
        found.note(mask_item.label, [TURNED] if turned_apart(item.value, mask_item.value) else [])
        return True
    found.problems[mask_item.label] = (
        f"is {width}x{height}, but its image {item.label} is {picture.width}x{picture.height}: "
        "draw masks at the size of their images"
    )
    return False


def _raise_problems(images: Findings, masks: Findings) -> None:
    problems = {f"image {label}": reason for label, reason in images.problems.items()}
    problems |= {f"mask {label}": reason for label, reason in masks.problems.items()}
    if not problems:
        return
    if not images.problems:
        raise MaskError(problem_text(masks.argument, masks.problems, masks.total))
    argument, total = images.argument, images.total
    if masks.problems:
        argument, total = f"{argument}, {masks.argument}", total + masks.total
    raise ImageError(problem_text(argument, problems, total))


def _note_duplicates(items: Sequence[Item], images: Iterable[Tensor], found: Findings) -> None:
    seen: set[bytes] = set()
    for item, image in zip(items, images, strict=True):
        key = hashlib.sha256(image.numpy().tobytes()).digest()
        found.note(item.label, [_DUPLICATE] if key in seen else [])
        seen.add(key)


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"

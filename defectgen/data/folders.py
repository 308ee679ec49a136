"""Pairing the images of one folder with the masks of another by their names."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from defectgen.data.sources import list_files, problem_text
from defectgen.errors import ImageError, MaskError

MASK_ENDING = "_mask"


def pair_folders(
    images_dir: str | os.PathLike[str],
    masks_dir: str | os.PathLike[str],
    *,
    images_name: str = "images",
    masks_name: str = "masks",
) -> tuple[list[Path], list[Path]]:
    """Find the mask of every image: the same name without suffix, or that name plus `_mask`.

    Args:
        images_dir: The folder of images.
        masks_dir: Another folder, with exactly one mask for every image and no further file.
        images_name: The first argument as the user wrote it.
        masks_name: The second argument as the user wrote it.

    Returns:
        Images and masks in the same order, sorted by the name of the image.

    Raises:
        ImageError: the folder of images does not exist or holds no picture.
        MaskError: the same of the folder of masks; or images without a mask, masks without an
            image, or names that fit more than once, all listed at once.
    """
    if Path(images_dir).expanduser().resolve() == Path(masks_dir).expanduser().resolve():
        raise MaskError(
            f"{masks_name}: must be another folder than {images_name}; got {str(masks_dir)!r} for "
            "both; move the masks to a folder of their own"
        )
    images = list_files(images_dir, images_name)
    try:
        masks = list_files(masks_dir, masks_name)
    except ImageError as error:
        raise MaskError(str(error)) from error
    fitting = [_fitting(image, masks) for image in images]
    problems = _problems(images, masks, fitting)
    if problems:
        raise MaskError(problem_text(masks_name, problems, len(images) + len(masks)))
    return images, [found[0] for found in fitting]


def _fitting(image: Path, masks: Sequence[Path]) -> list[Path]:
    return [mask for mask in masks if mask.stem in (image.stem, image.stem + MASK_ENDING)]


def _problems(
    images: Sequence[Path], masks: Sequence[Path], fitting: Sequence[Sequence[Path]]
) -> dict[str, str]:
    problems = {}
    users = defaultdict(list)
    for image, found in zip(images, fitting, strict=True):
        if not found:
            problems[image.name] = (
                f"has no mask: add {image.stem}.png or {image.stem}{MASK_ENDING}.png"
            )
        elif len(found) > 1:
            names = ", ".join(mask.name for mask in found)
            problems[image.name] = f"has several masks ({names}): keep one"
        for mask in found:
            users[mask].append(image.name)
    for mask in masks:
        if not users[mask]:
            problems[mask.name] = "is a mask without an image: add the image or remove the mask"
        elif len(users[mask]) > 1:
            names = ", ".join(users[mask])
            problems[mask.name] = f"is a mask that fits several images ({names}): rename them"
    return problems

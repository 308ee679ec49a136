"""Which mask belongs to which image, by the usual spellings of their names."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from defectgen.data.survey import Survey

WORDS = ("mask", "masks", "gt", "label", "labels", "seg", "segmentation", "groundtruth")
SIGNS = "_-. "


def composed(name: str) -> str:
    """A name with letters and accents in one: Macs, and archives made there, take them apart."""
    return unicodedata.normalize("NFC", name)


def lowered(name: str) -> str:
    """The same in lower case."""
    return composed(name).lower()


def bare_stem(stem: str) -> str | None:
    """Return what a mask's name says about its image, in lower case: `07_Mask`, `mask-07` -> `07`.

    None if the name has none of the usual words at its beginning or end.
    """
    found = _without_word(stem)
    return None if found is None else lowered(found)


def _without_word(stem: str) -> str | None:
    low = stem.lower()
    for word in WORDS:
        for sign in SIGNS:
            if low.endswith(sign + word) and len(low) > len(word) + 1:
                return stem[: -len(word) - 1]
            if low.startswith(word + sign) and len(low) > len(word) + 1:
                return stem[len(word) + 1 :]
    return None


def split_beside(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split the files of one folder into images and the masks that lie beside them."""
    stems = {lowered(path.stem) for path in files}
    masks = [path for path in files if bare_stem(path.stem) in stems]
    return [path for path in files if path not in masks], masks


def match(
    survey: Survey, images: Sequence[Path], masks: Sequence[Path], *, leftovers: bool = True
) -> list[tuple[Path, Path]]:
    """Pair images and masks by stem, and remember what has no partner or several.

    A mask has the stem of its image, in upper or lower case, alone or with one of `WORDS` before
    or behind it. Case counts only where it alone tells images apart.

    Args:
        survey: Takes the problems.
        images: Files of one type of defect.
        masks: Files that may belong to them.
        leftovers: Whether a mask without an image is a problem.

    Returns:
        The pairs that are clear.
    """
    stems = {composed(image.stem) for image in images}
    fold = lowered if len({lowered(stem) for stem in stems}) == len(stems) else composed
    twins = by_stem(images, fold)
    # The same stem first: an image may be called like a mask itself.
    found = _assign(masks, twins, fold)
    pairs = []
    for image in images:
        own = found[fold(image.stem)]
        if shares_stem(survey, image, twins[fold(image.stem)]):
            continue
        if not own:
            survey.error(
                image, f"has no mask: add {image.stem}.png or {image.stem}_mask.png", mask=True
            )
        elif len(own) > 1:
            names = ", ".join(survey.name(mask) for mask in own)
            survey.error(image, f"has several masks ({names}): keep one", mask=True)
        else:
            pairs.append((image, own[0]))
    if leftovers:
        used = {mask for masks_of_one in found.values() for mask in masks_of_one}
        for mask in masks:
            if mask not in used:
                text = "is a mask without an image: add the image or remove the mask"
                survey.error(mask, text, mask=True)
    return pairs


def by_stem(images: Sequence[Path], fold: Callable[[str], str]) -> dict[str, list[Path]]:
    """Group images by their stems, as `fold` writes them."""
    found = defaultdict(list)
    for image in images:
        found[fold(image.stem)].append(image)
    return found


def shares_stem(survey: Survey, image: Path, twins: Sequence[Path]) -> bool:
    """Whether others have the stem of an image, so that no mask tells whose it is: a problem."""
    if len(twins) > 1:
        names = ", ".join(survey.name(twin) for twin in twins)
        survey.error(image, f"shares its stem with others ({names}): rename them")
    return len(twins) > 1


def _assign(
    masks: Sequence[Path], stems: Container[str], fold: Callable[[str], str]
) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for mask in masks:
        for stem in (mask.stem, _without_word(mask.stem)):
            if stem is not None and fold(stem) in stems:
                found[fold(stem)].append(mask)
                break
    return found

"""Annotations that lie in one file for each image, with its stem."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from defectgen.data.shapes import Drawn, DrawnMask
from defectgen.data.sources import Unusable
from defectgen.data.stems import by_stem, composed, shares_stem
from defectgen.data.survey import Survey, one_kind

#: Text of a file, its image, what messages call the mask -> types and mask; raises `Unusable`.
Read = Callable[[str, Path, str], tuple[frozenset[str], DrawnMask]]


class UnusableOf(Unusable):
    """Why a file cannot be used, where it tells the types of its defects all the same."""

    def __init__(self, text: str, kinds: Collection[str]) -> None:
        super().__init__(text)
        self.kind = one_kind(kinds)


def read_sidecars(
    survey: Survey,
    files: Iterable[Path],
    images: Sequence[Path],
    what: tuple[str, str],
    read: Read,
) -> Drawn:
    """Read the masks of images, and remember what is wrong.

    A file is of the type of its image, so that it does not hinder the others.

    Args:
        survey: Takes the problems.
        files: Candidates; one belongs to the image of its stem.
        images: The images, of one folder or of several.
        what: What an image without a file has none of, and how the file ends.
        read: Makes a mask of a file.
    """
    there = {composed(path.stem): path for path in files}
    stems, found = by_stem(images, composed), {}
    for image in images:
        stem = composed(image.stem)
        path = there.get(stem)
        if shares_stem(survey, image, stems[stem]):
            continue
        if path is None:
            survey.error(image, f"has no {what[0]}: add {image.stem}{what[1]}", mask=True)
            continue
        kind = survey.kind_of(image)
        if kind is not None:
            survey.kinds[path] = kind
        text = survey.read(path, mask=True)
        if text is None:
            continue
        try:
            found[image] = read(text, image, f"{survey.name(path)} ({image.name})")
        except Unusable as error:
            if kind is None and isinstance(error, UnusableOf) and error.kind is not None:
                survey.kinds[path] = error.kind
            survey.error(path, str(error), mask=True)
    return found


def tell_orphans(survey: Survey, files: Iterable[Path], images: Sequence[Path]) -> None:
    """Remember files of labels that belong to no image."""
    stems = {composed(image.stem) for image in images}
    for path in files:
        if composed(path.stem) not in stems:
            survey.error(path, "has labels of no image: add the image or remove it", mask=True)

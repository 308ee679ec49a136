"""Masks from label files of YOLO segmentation: one text file of polygons for each image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from defectgen.data.shapes import Drawn, DrawnMask, Polygon, ScaledMask, polygon
from defectgen.data.sidecars import UnusableOf, read_sidecars, tell_orphans
from defectgen.data.sources import Unusable
from defectgen.data.survey import Survey, plain_name

#: Outlines may leave the picture a little; farther out they are pixels instead of shares.
MAX_SHARE = 1.5
MAX_CLASSES = 10_000

#: Text files in a folder of labels that hold no labels.
OTHER_NAMES = ("classes.txt", "readme.txt", "license.txt", "notes.txt")

_CLASS = re.compile("[0-9]{1,4}")


@dataclass
class ClassNames:
    """Names of the classes of a set of labels.

    Attributes:
        path: the file that holds them, or None.
        names: by their numbers; "" where there is none.
        unnamed: numbers that were asked for and have none.
    """

    path: Path | None = None
    names: list[str] = field(default_factory=list)
    unnamed: set[int] = field(default_factory=set)

    def of(self, index: int) -> str:
        """Return the name of a class; "class_<number>" if it has none."""
        name = plain_name(self.names[index] if index < len(self.names) else "", "")
        if not name:
            self.unnamed.add(index)
        return name or f"class_{index}"

    def warn(self, survey: Survey) -> None:
        """Remember the classes that a file of names leaves out."""
        for index in sorted(self.unnamed) if self.path is not None else ():
            text = f"has no name for class {index}, here called class_{index}: add it"
            survey.warn(self.path, text, mask=True)


def label_files(folder: Path) -> list[Path]:
    """List the label files of a folder by name."""
    return [
        path
        for path in sorted(folder.glob("*.txt"))
        if path.name.lower() not in OTHER_NAMES and not path.name.startswith(".") and path.is_file()
    ]


def read_yolo(survey: Survey, folder: Path, images: Sequence[Path], names: ClassNames) -> Drawn:
    """Read the masks of images, and remember what is wrong.

    Args:
        survey: Takes the problems.
        folder: Holds `<stem>.txt` for each image; lines "class x1 y1 x2 y2 ..." in shares of width
            and height.
        images: The images.
        names: Names of the classes; notes those that have none.

    Returns:
        Image -> the names of its classes, and its mask.
    """
    files = label_files(folder)

    def read(text: str, image: Path, name: str) -> tuple[frozenset[str], DrawnMask]:
        lines = [(n, line.split()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        if not lines:
            raise Unusable("is empty: outline the defect, or drop the image")
        numbers = [int(words[0]) for _, words in lines if _CLASS.fullmatch(words[0])]
        kinds = frozenset(map(names.of, numbers))
        try:
            return kinds, ScaledMask(name, [_outline(*line) for line in lines], image)
        except Unusable as error:
            raise UnusableOf(str(error), kinds) from error

    found = read_sidecars(survey, files, images, ("labels", ".txt"), read)
    tell_orphans(survey, files, images)
    return found


def class_names(survey: Survey, folders: Sequence[Path]) -> ClassNames:
    """Read the names of the classes from the first `classes.txt` or `data.yaml` in the folders."""
    for folder in folders:
        for name in ("classes.txt", "data.yaml", "data.yml"):
            path = folder / name
            if path.is_file():
                text = survey.read(path, mask=True)
                if text is None:
                    return ClassNames()
                read = _plain_names if name.endswith(".txt") else yaml_names
                return ClassNames(path, read(text))
    return ClassNames()


def yaml_names(text: str) -> list[str]:
    """Read the entry `names` of a `data.yaml`: a list in brackets, or lines "- name" or "0: name".

    Only this much of YAML is read; what is written otherwise gives no names, and gaps give "".
    """
    entry = re.search(r"^names:[ \t]*(.*)$((?:\n(?:[ \t]+.*|-.*|[ \t]*))*)", text, re.M)
    if entry is None:
        return []
    inline, block = entry[1].partition(" #")[0].strip(), entry[2]
    if inline[:1] in ("[", "{"):
        pieces = inline.strip("[]{}").split(",")
    else:
        pieces = [line for line in block.splitlines() if line.strip()]
    found = {}
    for place, piece in enumerate(pieces[:MAX_CLASSES]):
        parts = re.fullmatch(r"(?:-\s*)?(?:([0-9]{1,4})\s*:)?\s*(.*)", piece[:200].strip())
        if parts is not None and parts[2]:
            found[int(parts[1]) if parts[1] else place] = parts[2].strip("'\"")
    return [found.get(index, "") for index in range(max(found, default=-1) + 1)]


def _plain_names(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def _outline(number: int, words: Sequence[str]) -> Polygon:
    if len(words) == 5:
        raise Unusable(f"line {number} is a box: export segments, as a box is no mask")
    if not _CLASS.fullmatch(words[0]):
        raise Unusable(f"line {number} begins with {words[0][:20]!r}: write the number of a class")
    try:
        values = [float(word) for word in words[1:]]
    except ValueError as error:
        raise Unusable(f"line {number} holds something else than numbers: repair it") from error
    try:
        return polygon(values, MAX_SHARE)
    except Unusable as error:
        raise Unusable(f"line {number} {error}") from error

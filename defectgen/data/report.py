"""Decodes every picture of a data set once, and says all that is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from PIL import Image

from defectgen.checks import check_choice
from defectgen.data.deferred import (
    SQUARES,
    Square,
    SquareImage,
    SquareMask,
    square_image,
    square_mask,
)
from defectgen.data.masks import decode_mask
from defectgen.data.orientation import TURNED, turned_apart
from defectgen.data.pictures import decode_image, decode_oblong
from defectgen.data.shapes import DrawnMask
from defectgen.data.sources import Unusable, Value, open_picture, problem_text
from defectgen.data.survey import Entry, Problem, Survey, printable
from defectgen.errors import DefectGenError, ImageError, MaskError

SHOWN = 50  # lines of one error; a report holds all

_SINGULAR = {"have": "has", "are": "is"}
_OBLONG = "not square: crop it, cut windows, or pass square='pad' or square='crop'"


@dataclass(frozen=True)
class DataReport:
    """What a data set holds, and everything that is wrong with it.

    Attributes:
        layout: "mvtec", "visa" or "folder".
        folder: where its files lie.
        counts: number of images of each part and type, such as "train/good" or "test/scratch";
            images without a mask are not among them.
        problems: all of them; errors first.
        usable: how many of the images can be used, with their masks.
    """

    layout: str
    folder: str
    counts: dict[str, int]
    problems: tuple[Problem, ...]
    usable: int

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems of files that cannot be used."""
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Problems of files that can be used."""
        return tuple(p for p in self.problems if p.severity == "warning")

    @property
    def ok(self) -> bool:
        """Whether nothing hinders training."""
        return not self.errors

    def lines(self) -> list[str]:
        """Return the report for people: the folder, the counts, every problem."""
        lines = [f"{self.folder} ({self.layout})"]
        width = max(map(len, self.counts), default=0)
        lines += [f"  {name:<{width}}  {count}" for name, count in self.counts.items()]
        for title, problems in (("errors", self.errors), ("warnings", self.warnings)):
            lines.append(f"{title}: {len(problems) or 'none'}")
            lines += [f"  {problem.file}: {problem.reason}" for problem in problems]
        return [printable(line) for line in lines]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def error(self) -> DefectGenError:
        """Return the error that lists all errors: of masks if they are all about masks."""
        reasons: dict[str, str] = {}
        for problem in self.errors:
            known = reasons.get(problem.file)
            reasons[problem.file] = f"{known}; {problem.reason}" if known else problem.reason
        only_masks = all(problem.about == "mask" for problem in self.errors)
        total = max(sum(self.counts.values()), len(reasons))
        text = problem_text(printable(self.folder), reasons, total, SHOWN)
        return MaskError(text) if only_masks else ImageError(text)


@dataclass(frozen=True)
class Usable:
    """An entry whose image and mask the funnel accepts.

    Attributes:
        entry: the entry.
        image: its image as the funnel takes it: the file itself, or a square made from it.
        mask: likewise; None for a good image.
    """

    entry: Entry
    image: Value
    mask: Value | None


def inspect(
    survey: Survey, square: Square, *, whole: bool = False
) -> tuple[DataReport, list[Usable]]:
    """Decode all pictures of a survey by the rules of `load_images` and `load_pairs`.

    Copies of a picture are warnings: training is possible, but its test may tell nothing.

    Args:
        survey: What the layout found.
        square: How oblong images become square; None makes them errors.
        whole: Leave images of any form and size as they are; `square` does not matter.

    Returns:
        The report, and what can be used, in the order of the survey.

    Raises:
        ConfigError: `square` is none of its choices.
    """
    check_choice("square", square, SQUARES)
    found = replace(survey, problems=list(survey.problems))
    usable = []
    seen: dict[bytes, Entry] = {}
    for entry in survey.entries:
        before = len(found.problems)
        raw = _look_at_image(entry, square, whole, found, seen)
        if entry.mask is not None:
            _look_at_mask(entry, entry.mask, raw, None if whole else square, found)
        bad = any(problem.severity == "error" for problem in found.problems[before:])
        if raw is None or bad:
            continue
        image: Value = entry.image
        mask = entry.mask
        if raw.width != raw.height and not whole:
            image = SquareImage(image, square)
            mask = None if mask is None else SquareMask(mask, square)
        usable.append(Usable(entry, image, mask))
    problems = sorted(found.problems, key=lambda problem: problem.severity)
    counts = count(survey.entries)
    return DataReport(
        survey.layout, str(survey.folder), counts, tuple(problems), len(usable)
    ), usable


def count(entries: Iterable[Entry]) -> dict[str, int]:
    """Count the entries of each part and type: train before test, good before defects."""
    tally = Counter((entry.part == "test", entry.kind or "") for entry in entries)
    named: Counter[str] = Counter()
    for test, kind in sorted(tally):
        named[f"{'test' if test else 'train'}/{kind or 'good'}"] += tally[test, kind]
    return dict(named)


def _look_at_image(
    entry: Entry, square: Square, whole: bool, found: Survey, seen: dict[bytes, Entry]
) -> Image.Image | None:
    try:
        if whole:
            picture, remarks = decode_oblong(entry.image)
            raw = picture
        else:
            raw = open_picture(entry.image)
            if raw.width != raw.height and square is None:
                raise Unusable(f"is {raw.width}x{raw.height}, {_OBLONG}")
            picture, remarks = decode_image(square_image(raw, square), 3)
    except Unusable as error:
        found.error(entry.image, str(error))
        return None
    for remark in remarks:
        found.warn(entry.image, _of_one(remark))
    content = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).digest()
    if content in seen:
        found.warn(entry.image, _copy_text(entry, seen[content], found))
    seen.setdefault(content, entry)
    return raw


def _look_at_mask(
    entry: Entry, drawn: Value, raw: Image.Image | None, square: Square, found: Survey
) -> None:
    try:
        if type(drawn) is DrawnMask:  # before a file that claims to be large is drawn so
            _check_size(drawn.size(), raw, found.name(entry.image))
        mask, remark = decode_mask(drawn)
        _check_size(mask.shape, raw, found.name(entry.image))
        if raw is not None and not square_mask(mask, square).any():
            raise Unusable("lies outside the middle of its image: pass square='pad'")
        if turned_apart(entry.image, drawn):
            found.warn(_plain(drawn), _of_one(TURNED), mask=True)
        if remark:
            found.warn(_plain(drawn), _of_one(remark), mask=True)
    except Unusable as error:
        found.error(_plain(drawn), str(error), mask=True)


def _check_size(size: tuple[int, ...] | None, raw: Image.Image | None, image: str) -> None:
    if raw is not None and size is not None and size != (raw.height, raw.width):
        raise Unusable(
            f"is {size[1]}x{size[0]}, but its image {image} is "
            f"{raw.width}x{raw.height}: draw masks at the size of their images"
        )


def _of_one(remark: str) -> str:
    """A remark on several files, as one on one file: its verb."""
    verb, rest = remark.split(" ", 1)
    return f"{_SINGULAR.get(verb, verb)} {rest}"


def _plain(mask: Value) -> object:
    # A wrapper around a file is named by that file.
    return getattr(mask, "path", mask)


def _copy_text(entry: Entry, first: Entry, found: Survey) -> str:
    name = found.name(first.image)
    if (entry.kind is None) != (first.kind is None):
        return f"is the same picture as {name}, once good and once with a defect: drop one"
    if entry.part != first.part:
        return f"is the same picture as {name}, once in train and once in test: drop one"
    return f"is the same picture as {name}: copies weigh double in training, drop one"

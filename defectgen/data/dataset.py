"""What every loader gives: good images, and defects by type with their masks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from defectgen.data.deferred import Square
from defectgen.data.report import DataReport, Usable, inspect
from defectgen.data.sources import Value
from defectgen.data.survey import Survey
from defectgen.errors import DataWarning
from defectgen.messages import warn

_SHOWN = 10  # lines of one warning; the report holds all


class DefectImages(NamedTuple):
    """The images of one type of defect, and their masks in the same order.

    Attributes:
        images: paths, or squares made from them when they are read.
        masks: paths, or masks drawn when they are read.
    """

    images: list[Value]
    masks: list[Value]


class DefectData:
    """A data set on disk, checked once; pictures are read again when they are needed.

    Attributes:
        train_good: Good images to learn the product from, for `Backbone.fit`. Paths, or
            squares made when they are read.
        test_good: Good images kept for tests; may be empty.
        defects: Type of defect -> images and masks, for `DefectSynthesizer.fit`. If the data
            set has defects in its training part, those; otherwise all.
        test_defects: The same of the test part, if the training part has defects as well;
            otherwise empty.
        report: What the check found.
    """

    def __init__(self, survey: Survey, square: Square, drop_bad: bool) -> None:
        self.report, usable = inspect(survey, square)
        lists = _sort(usable)
        complete = bool(lists[0]) and bool(lists[2])
        if not self.report.ok and not (drop_bad and complete):
            raise self.report.error()
        self.train_good, self.test_good, self.defects, self.test_defects = lists
        warn_of(self.report, "report.problems")

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {count}" for name, count in self.report.counts.items())
        return f"<{type(self).__name__} {self.report.folder!r} {counts}>"


def _sort(
    usable: Iterable[Usable],
) -> tuple[list[Value], list[Value], dict[str, DefectImages], dict[str, DefectImages]]:
    good: dict[str, list[Value]] = {"train": [], "test": []}
    bad: dict[str, dict[str, DefectImages]] = {"train": {}, "test": {}}
    for item in usable:
        entry = item.entry
        if entry.kind is None or item.mask is None:
            good[entry.part].append(item.image)
        else:
            pairs = bad[entry.part].setdefault(entry.kind, DefectImages([], []))
            pairs.images.append(item.image)
            pairs.masks.append(item.mask)
    by_name = {part: dict(sorted(kinds.items())) for part, kinds in bad.items()}
    if by_name["train"]:
        return good["train"], good["test"], by_name["train"], by_name["test"]
    return good["train"], good["test"], by_name["test"], {}


def warn_of(report: DataReport, rest: str) -> None:
    """Give one `DataWarning` of all problems, if there are any.

    Errors are among them only where the user chose to drop bad files.

    Args:
        report: What was found.
        rest: Where those are that one warning has no room for.
    """
    if not report.problems:
        return
    lines = [f"  {problem.file}: {problem.reason}" for problem in report.problems[:_SHOWN]]
    if len(report.problems) > _SHOWN:
        lines.append(f"  ... and {len(report.problems) - _SHOWN} more in {rest}")
    dropped = (
        f"{len(report.errors)} errors, whose files were left out, and " if report.errors else ""
    )
    head = f"{report.folder}: {dropped}{len(report.warnings)} warnings:"
    warn("\n".join([head, *lines]), DataWarning)

"""What a data set on disk holds and what is wrong with it, with a contact sheet."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from defectgen.checks import check_choice
from defectgen.data.deferred import SQUARES, Square
from defectgen.data.layouts import LAYOUTS, find_folders, square_of, survey_layout
from defectgen.data.masks import decode_mask, resize_mask
from defectgen.data.mvtec import GOOD
from defectgen.data.pictures import decode_image, resize_image
from defectgen.data.report import DataReport, Usable, inspect
from defectgen.data.survey import existing_folder, printable
from defectgen.data.visa import SPLITS
from defectgen.errors import ConfigError, ImageError
from defectgen.files import check_writable
from defectgen.sheet import SheetRow, contact_sheet

SHOWN, TILE = 8, 96  # images of each part and type on the sheet, and their side in pixels


def check_data(
    path: str | os.PathLike[str],
    *,
    layout: str = "auto",
    category: str | None = None,
    split: str | None = None,
    square: Square = None,
    sheet: str | os.PathLike[str] | None = None,
) -> list[DataReport]:
    """Check one category, every category below a folder, or a folder of one's own.

    Args:
        path: The folder of a category, of all categories, or of one's own photos.
        layout: "mvtec", "visa", "folder", or "auto", which looks at the folders.
        category: The name of a folder in `path`; None takes all that have the layout.
        split: Of VisA, as in its loader, whose default None takes; other layouts have none.
        square: As in the loaders; None takes their default.
        sheet: A PNG file to write with images of every part and type, masks outlined; not written
            if no image can be used.

    Returns:
        One report for each category.

    Raises:
        ConfigError: an argument is out of its range.
        ImageError: there is no such folder.
        OSError: the disk is full.
    """
    check_choice("layout", layout, LAYOUTS)
    check_choice("split", split, (None, *SPLITS))
    check_choice("square", square, SQUARES)
    folder = existing_folder(path, "path")
    if sheet is not None:
        _check_sheet(sheet)
    reports, rows = [], []
    for home in find_folders(folder, layout, category):
        survey = survey_layout(home, layout, split)
        report, usable = inspect(survey, square_of(survey, square))
        reports.append(report)
        if sheet is not None:
            rows += _rows(os.path.basename(os.path.abspath(home)), usable)
    if sheet is not None and rows:
        contact_sheet(rows, sheet, columns=SHOWN, tile=TILE)
    return reports


def describe(
    reports: Sequence[DataReport], sheet: str | os.PathLike[str] | None = None
) -> list[str]:
    """Return the reports as lines, and where the contact sheet lies."""
    lines = [line for report in reports for line in report.lines()]
    if sheet is not None:
        drawn = any(report.usable for report in reports)
        lines.append(f"contact sheet: {sheet if drawn else 'none, as no image can be used'}")
    return lines


def require_usable(reports: Sequence[DataReport]) -> None:
    """Raise if there are errors, without repeating them.

    Raises:
        ImageError: saying how many there are, and in which folders.
    """
    bad = [report for report in reports if not report.ok]
    if bad:
        count = sum(len(report.errors) for report in bad)
        errors = f"{count} error{'s' * (count > 1)}"
        where = ", ".join(report.folder for report in bad)
        raise ImageError(
            f"path: all files must be usable; got {errors} in {where}; repair what is listed"
        )


def _check_sheet(sheet: str | os.PathLike[str]) -> None:
    if Path(sheet).suffix.lower() != ".png":
        raise ConfigError(f"sheet: must end in .png; got {str(sheet)!r}; name it so")
    check_writable(sheet, "sheet", folder=False)


def _rows(category: str, usable: Sequence[Usable]) -> list[SheetRow]:
    groups = defaultdict(list)
    for item in usable:
        groups[item.entry.part, item.entry.kind].append(item)
    rows = []
    for (part, kind), items in groups.items():
        some = (
            [items[k * len(items) // SHOWN] for k in range(SHOWN)] if len(items) > SHOWN else items
        )
        images = [resize_image(decode_image(item.image, 3)[0], TILE) for item in some]
        masks = [
            torch.from_numpy(resize_mask(decode_mask(item.mask)[0], TILE))[None]
            for item in some
            if item.mask is not None
        ]
        caption = f"{category}: {part}/{kind or GOOD}, {len(some)} of {len(items)}"
        rows.append(
            SheetRow(printable(caption), torch.stack(images), torch.stack(masks) if masks else None)
        )
    return rows

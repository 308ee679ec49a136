"""VisA, as its owners distribute it and as their script re-arranges it."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from defectgen.checks import check_choice
from defectgen.data.dataset import DefectData
from defectgen.data.deferred import AnyClass, Square
from defectgen.data.mvtec import is_mvtec, survey_mvtec
from defectgen.data.report import DataReport, inspect
from defectgen.data.sources import pictures
from defectgen.data.survey import (
    Entry,
    Part,
    Survey,
    Want,
    category_folder,
    one_kind,
    plain_name,
)

#: The first is the default.
SPLITS = ("1cls", "2cls_fewshot", "2cls_highshot")
ANNOTATIONS = "image_anno.csv"
NORMAL = "normal"  # the label of good images
UNNAMED = "anomaly"  # the type of a defect that no table names

_NORMAL, _ANOMALY = Path("Data", "Images", "Normal"), Path("Data", "Images", "Anomaly")
_MASKS = Path("Data", "Masks", "Anomaly")


class VisA(DefectData):
    """One category of VisA, as its owners distribute it.

    The layout: `<category>/Data/Images/Normal` and `Anomaly`, `<category>/Data/Masks/Anomaly`,
    `<category>/image_anno.csv` with the types of defects, and `split_csv/<split>.csv` beside the
    categories. Masks have one value per type; whatever is not 0 is the defect. The type of an
    image is its label as written, and "combined" if it has several.

    The tree that the owners' script makes of it (`train/good`, `test/good`, `test/bad`,
    `ground_truth/bad`) is read as well; there all defects are of the type "bad".

    Args:
        root: The folder of all categories.
        category: The name of the category, such as "candle".
        split: "1cls" (all defects are for tests, so that `defects` holds all of them),
            "2cls_fewshot" or "2cls_highshot" (some are for training: these are in `defects`, the
            others in `test_defects`). Without the file of the split, all normal images are for
            training.
        square: What happens to oblong images, as those of VisA: "pad" repeats their borders,
            so that no defect is lost; "crop" takes the middle; None makes them an error.
        drop_bad: Leave out what cannot be used, with a warning, instead of raising.

    Raises:
        ConfigError: an argument is out of its range.
        ImageError: the folder is missing, or files cannot be used; all of them are listed.
        MaskError: the same, if they are all about masks.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        category: str,
        *,
        split: str = "1cls",
        square: Square = "pad",
        drop_bad: bool = False,
    ) -> None:
        super().__init__(survey_visa(category_folder(root, category), split), square, drop_bad)

    @staticmethod
    def check(
        root: str | os.PathLike[str],
        category: str,
        *,
        split: str = "1cls",
        square: Square = "pad",
    ) -> DataReport:
        """Return the report, whatever it says, instead of raising."""
        return inspect(survey_visa(category_folder(root, category), split), square)[0]


def is_visa(folder: Path) -> bool:
    """Whether a folder is one category in the layout of the owners."""
    return (folder / _NORMAL).is_dir() or (folder / _ANOMALY).is_dir()


def survey_visa(folder: Path, split: str = SPLITS[0], want: Want = "all") -> Survey:
    """List the entries of one category, or those of them that are wanted.

    Names in tables are looked up among the files that are there, and never joined to a path.
    """
    check_choice("split", split, SPLITS)
    if is_mvtec(folder) and not is_visa(folder):
        return survey_mvtec(folder, layout="visa", any_class=True, want=want)
    survey = Survey("visa", folder)
    normal = [] if want == "defects" else survey.files_in(folder / _NORMAL)
    anomalous = [] if want == "good" else survey.files_in(folder / _ANOMALY)
    wanted = {path.relative_to(folder).as_posix(): path for path in (*normal, *anomalous)}
    parts = _read_split(survey, folder.parent / "split_csv" / f"{split}.csv", wanted)
    for path in normal:
        part = _part(survey, path, parts, "train")
        if part is not None:
            survey.entries.append(Entry(part, None, path))
    if want != "good":
        _add_anomalies(survey, anomalous, parts)
    return survey


def _add_anomalies(
    survey: Survey,
    images: Sequence[Path],
    parts: Mapping[Path, Part] | None,
) -> None:
    masks = _there(survey.folder / _MASKS)
    if not masks:
        survey.files_in(survey.folder / _MASKS, mask=True)  # says whether it is missing or empty
    labels = _read_annotations(survey, [*_there(survey.folder / _NORMAL), *images, *masks])
    by_stem = {mask.stem: mask for mask in masks}
    used = set()
    for image in images:
        kind, mask = (UNNAMED, None) if labels is None else labels.get(image, (None, None))
        if kind is None:
            survey.error(image, f"has no line in {ANNOTATIONS}: add its type")
        elif kind.lower() == NORMAL:
            survey.error(image, f"is {NORMAL} in {ANNOTATIONS}: move it or correct its label")
            kind = None
        else:
            survey.kinds[image] = kind
        mask = mask or by_stem.get(image.stem)
        used.add(mask)
        part = _part(survey, image, parts, "test")
        # Without any mask the folder itself is named, once.
        if mask is None and masks:
            text = f"has no mask: add {(_MASKS / image.stem).as_posix()}.png"
            survey.error(image, text, mask=True)
        if mask is not None and part is not None and kind is not None:
            survey.entries.append(Entry(part, kind, image, AnyClass(mask)))
    for mask in masks:
        if mask not in used:
            text = "is a mask without an image: add the image or remove the mask"
            survey.error(mask, text, mask=True)


def _part(
    survey: Survey, image: Path, parts: Mapping[Path, Part] | None, otherwise: Part
) -> Part | None:
    if parts is None:
        return otherwise
    if image not in parts:
        survey.warn(image, "is in no line of the split, and was left out")
    return parts.get(image)


def _read_split(survey: Survey, path: Path, files: Mapping[str, Path]) -> dict[Path, Part] | None:
    """Read which image is for training; None if there is no such table."""
    if not path.is_file():
        text = f"is missing: all of {_NORMAL.as_posix()} is for training"
        survey.warn(f"../split_csv/{path.name}", text)
        return None
    rows = _rows(survey, path, ("image", "split"))
    parts: dict[Path, Part] = {}
    for row in rows:
        image = files.get(_below(row["image"], survey.folder.name))
        part = row["split"].strip().lower()
        if image is None:
            continue  # of another category, or named by the other table already
        if part not in ("train", "test"):
            survey.error(image, f"has the split {part!r} in {path.name}: write train or test")
        else:
            parts[image] = "train" if part == "train" else "test"
    if not parts:
        survey.error(path, f"has no line for {survey.folder.name}: check that it is the right file")
    return parts


def _there(folder: Path) -> list[Path]:
    return pictures(folder) if folder.is_dir() else []


def _read_annotations(
    survey: Survey, there: Sequence[Path]
) -> dict[Path, tuple[str, Path | None]] | None:
    """Read type and mask of every image; None if there is no such table."""
    files = {path.relative_to(survey.folder).as_posix(): path for path in there}
    path = survey.folder / ANNOTATIONS
    if not path.is_file():
        survey.warn(path, f"is missing: all defects are of the type {UNNAMED!r}")
        return None
    labels: dict[Path, tuple[str, Path | None]] = {}
    for row in _rows(survey, path, ("image", "label")):
        name = _below(row["image"], survey.folder.name)
        image = files.get(name)
        if image is None:
            survey.warn(name, f"is named in {ANNOTATIONS} and is not there")
            continue
        mask_name = _below(row.get("mask", ""), survey.folder.name)
        mask = files.get(mask_name) if mask_name else None
        if mask_name and mask is None:
            text = f"is named in {ANNOTATIONS} as a mask and is not there: add it"
            survey.error(mask_name, text, mask=True, kind=_kind(row["label"]))
        labels[image] = (_kind(row["label"]), mask)
    return labels


def _kind(label: str) -> str:
    kinds = {plain_name(part, "") for part in label.split(",")} - {""}
    return one_kind(kinds) or UNNAMED


def _below(name: str, category: str) -> str:
    # "candle/Data/Images/..." -> "Data/Images/...": a key of the files that are there.
    return name.strip().replace("\\", "/").removeprefix(f"{category}/")


def _rows(survey: Survey, path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    text = survey.read(path)
    if text is None:
        return []
    try:
        table = list(csv.reader(text.splitlines()))
    except csv.Error as error:
        survey.error(path, f"is no table ({error}): save it as CSV with commas")
        return []
    head = [name.strip().lower() for name in table[0]] if table else []
    missing = [name for name in needed if name not in head]
    if missing:
        survey.error(path, f"has no column {' and '.join(missing)}: its first line names them")
        return []
    # Short lines are filled up: an empty name is found nowhere.
    return [
        dict(zip(head, [*line, *[""] * len(head)], strict=False)) for line in table[1:] if any(line)
    ]

"""Which layout a data set has, and what a training takes from any of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from defectgen.checks import check_choice
from defectgen.data.dataset import DefectImages, warn_of
from defectgen.data.deferred import SQUARES, Square
from defectgen.data.mask_sources import masks_beside
from defectgen.data.mvtec import GOOD, is_mvtec, survey_mvtec
from defectgen.data.own_folder import (
    holds_defects,
    holds_good,
    masks_within,
    survey_folder,
    survey_pairs,
)
from defectgen.data.report import Usable, inspect
from defectgen.data.sources import Value, pictures
from defectgen.data.survey import (
    Survey,
    Want,
    category_folder,
    existing_folder,
    printable,
    subfolders,
)
from defectgen.data.visa import SPLITS, is_visa, survey_visa
from defectgen.errors import ConfigError, ImageError, MaskError

LAYOUTS = ("auto", "mvtec", "visa", "folder")
SHOWN = 30  # names in one message

_REARRANGED = {"bad"}  # the only type in what the owners' script makes of VisA


def good_images(
    path: str | os.PathLike[str],
    *,
    layout: str = "auto",
    category: str | None = None,
    split: str | None = None,
    square: Square = None,
    drop_bad: bool = False,
    whole: bool = False,
) -> list[Value]:
    """Return the good images to train with, checked as the loaders check them.

    Args:
        path: A data set, the folder of all its categories, or a folder that holds pictures itself.
        layout: "mvtec", "visa", "folder", or "auto", which looks at the folders.
        category: The name of a folder in `path`; needed where several are data sets.
        split: Of VisA, as in its loader, whose default None takes; other layouts have none.
        square: As in the loaders; None takes their default.
        drop_bad: Leave out what cannot be used, with a warning, if anything is left.
        whole: Leave oblong images as they are, and tell all that is wrong: for windows of them.

    Returns:
        Paths, or squares made when they are read, for `Backbone.fit`; sorted as in a folder.

    Raises:
        ConfigError: an argument is out of its range, or a category has to be named.
        ImageError: there is no such folder, or files cannot be used; all of them are listed.
    """
    folder = _named(path, layout, category, split, square)
    if layout == "auto" and pictures(folder):
        _check_no_split(split, folder)
        survey = Survey("folder", folder)
        survey.add_good("train", survey.files_in(folder))
        if _is_set(folder) or holds_good(folder):
            text = "holds pictures itself, which are taken, and a data set, which is not"
            survey.warn(folder, f"{text}: name the layout, or move the pictures")
    else:
        survey = survey_layout(_single(folder, layout, category), layout, split, want="good")
        survey.entries = [entry for entry in survey.entries if entry.part == "train"]
    return [item.image for item in _usable(survey, square, drop_bad, whole, "good images")]


def defect_pairs(
    path: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None = None,
    *,
    defect: str | None = None,
    layout: str = "auto",
    category: str | None = None,
    split: str | None = None,
    square: Square = None,
    drop_bad: bool = False,
    whole: bool = False,
) -> DefectImages:
    """Return images and masks of one type of defect, checked as the loaders check them.

    Args:
        path: A data set or the folder of all its categories; or a folder of images.
        masks: What tells the masks of a folder of images: a folder of pictures, of YOLO labels or
            of LabelMe files, or a COCO file. None if `path` is a data set, or if they lie beside
            the images.
        defect: The type; needed where there are several.
        layout: As in `good_images`.
        category: As in `good_images`.
        split: As in `good_images`.
        square: As in the loaders; None takes their default.
        drop_bad: Leave out what cannot be used, with a warning, if anything is left.
        whole: As in `good_images`.

    Returns:
        Images and masks for `DefectSynthesizer.fit`. If the data set has defects in its training
        part, those; otherwise all.

    Raises:
        ConfigError: an argument is out of its range, or a category or type has to be named.
        ImageError: there is no such folder, or files cannot be used; all of them are listed.
        MaskError: the same, if they are all about masks.
    """
    folder = _named(path, layout, category, split, square)
    if masks is not None:
        given = {"category": category, "split": split, "layout": layout}
        for name, value in given.items():
            if value in (None, "auto"):
                continue
            raise ConfigError(
                f"{name}: belongs to a data set; got {value!r} with masks; leave out one of them"
            )
        survey = survey_pairs(folder, _source(masks))
    elif layout == "auto" and pictures(folder) and not _is_set(folder):
        _check_no_split(split, folder)
        survey = survey_pairs(folder, _masks_of(folder))
    else:
        survey = survey_layout(_single(folder, layout, category), layout, split, want="defects")
    usable = _usable(_one_type(survey, defect), square, drop_bad, whole, "defect images")
    # Without a mask there is no entry of a defect.
    return DefectImages(
        [item.image for item in usable], [item.mask for item in usable if item.mask is not None]
    )


def find_folders(folder: Path, layout: str, category: str | None) -> list[Path]:
    """List the data sets in a folder that is one or holds several."""
    if category is not None:
        return [category_folder(folder, category)]
    if layout == "folder":
        return [folder]
    forms = {"mvtec": [is_mvtec], "visa": [is_visa, is_mvtec]}.get(layout, [is_visa, is_mvtec])
    if any(fits(folder) for fits in forms):
        return [folder]
    below = [path for path in subfolders(folder) if any(fits(path) for fits in forms)]
    # What has no such folder is described as if it were one: the report says what is missing.
    return below or [folder]


def survey_layout(
    folder: Path, layout: str, split: str | None = None, *, want: Want = "all"
) -> Survey:
    """List what a data set holds, in the layout named or in the one it looks like.

    Raises:
        ConfigError: a split of what has none.
    """
    if layout == "auto":
        layout = "folder"
        if is_visa(folder):
            layout = "visa"
        elif is_mvtec(folder):
            kinds = {path.name for path in subfolders(folder / "test")} - {GOOD}
            layout = "visa" if kinds == _REARRANGED else "mvtec"
    if layout != "visa" or not is_visa(folder):
        _check_no_split(split, folder)
    if layout == "visa":
        # The table of the split lies beside the folder, also if that was given as ".".
        # Links stay as they are: the names in the table are those of the user's folders.
        home = Path(os.path.abspath(folder))
        return survey_visa(home, split or SPLITS[0], want=want)
    if layout == "mvtec":
        return survey_mvtec(folder, want=want)
    return survey_folder(folder, want=want)


def square_of(survey: Survey, square: Square) -> Square:
    """What happens to oblong images: what was asked for, or the default of the loader."""
    return "pad" if square is None and survey.layout == "visa" else square


def _named(
    path: str | os.PathLike[str],
    layout: str,
    category: str | None,
    split: str | None,
    square: Square,
) -> Path:
    check_choice("layout", layout, LAYOUTS)
    check_choice("split", split, (None, *SPLITS))
    check_choice("square", square, SQUARES)
    folder = existing_folder(path, "path")
    return folder if category is None else category_folder(folder, category)


def _single(folder: Path, layout: str, category: str | None) -> Path:
    found = [folder] if category is not None else find_folders(folder, layout, None)
    if len(found) > 1:
        raise ConfigError(
            f"category: must name one of several in {str(folder)!r}; got none; "
            f"choose {_listed([one.name for one in found])}"
        )
    return found[0]


def _check_no_split(split: str | None, folder: Path) -> None:
    if split is not None:
        raise ConfigError(
            f"split: belongs to VisA as its owners distribute it; got {split!r} for "
            f"{str(folder)!r}, which is not arranged so; leave it out"
        )


def _is_set(folder: Path) -> bool:
    return find_folders(folder, "auto", None) != [folder] or any(
        fits(folder) for fits in (is_visa, is_mvtec, holds_defects)
    )


def _source(masks: str | os.PathLike[str]) -> Path:
    source = Path(masks).expanduser()
    if source.is_dir() or (source.is_file() and source.suffix.lower() == ".json"):
        return source
    what = "another file" if source.exists() else "nothing"
    raise MaskError(
        "masks: must name a folder of masks or annotations, or a COCO file (.json); "
        f"got {str(source)!r}, which is {what}; check the path"
    )


def _masks_of(folder: Path) -> Path:
    source = masks_within(folder)
    if source == folder and not masks_beside(folder):
        raise MaskError(
            f"masks: must be given where none lie beside the images; got none for {str(folder)!r}; "
            "name their folder, or a data set"
        )
    return source


def _one_type(survey: Survey, defect: str | None) -> Survey:
    """Keep one type of defect, and the problems that may be about it."""
    entries = [entry for entry in survey.entries if entry.kind is not None]
    entries = [entry for entry in entries if entry.part == "train"] or entries
    # All files of a type may be bad.
    kinds = sorted({*survey.kinds.values(), *(entry.kind for entry in entries if entry.kind)})
    if defect is None and len(kinds) > 1:
        raise ConfigError(
            f"defect: must name one of several types in {str(survey.folder)!r}; got none; "
            f"choose {_listed(kinds)}"
        )
    if defect is not None and kinds and defect not in kinds:
        raise ConfigError(
            f"defect: must be a type of defect in {str(survey.folder)!r}; got {defect!r}; "
            f"choose {_listed(kinds)}"
        )
    wanted = kinds[0] if defect is None and kinds else defect
    return replace(
        survey,
        entries=[entry for entry in entries if entry.kind == wanted],
        problems=[one for one in survey.problems if one.kind in (None, wanted)],
    )


def _usable(survey: Survey, square: Square, drop_bad: bool, whole: bool, what: str) -> list[Usable]:
    report, usable = inspect(survey, square_of(survey, square), whole=whole)
    if not report.ok and not (drop_bad and usable):
        raise report.error()
    if not usable:
        raise ImageError(
            f"path: must hold {what} for training; got none in {report.folder!r}; check the path"
        )
    # What looks wrong in a picture is told by fit, which decodes it again, unless it is cut before.
    known = set(report.problems if whole else survey.problems)
    told = [one for one in report.problems if one.severity == "error" or one in known]
    warn_of(replace(report, problems=tuple(told)), "the report of 'data check'")
    return usable


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return printable(", ".join(names[:SHOWN])) + more

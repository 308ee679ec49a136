"""The photos of a command, and what is wrong with them in the words of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from defectgen.data.dataset import DefectImages
from defectgen.data.layouts import defect_pairs, good_images
from defectgen.data.report import DataReport
from defectgen.data.sources import Value
from defectgen.data_check import check_data, describe
from defectgen.errors import ConfigError, ImageError, MaskError
from defectgen.writer import DEFECT

# Phrases of the library, and what stands for them here.
_SPOKEN = {
    "pass square='pad' or square='crop'": "give --square pad or --square crop",
    "pass square='pad'": "give --square pad",
}
TRAINING = _SPOKEN | {
    "; repair or drop:": "; repair them, or give --drop-bad:",
    "or pass good=": "or give that folder itself",
    "pass drop_bad=True": "give --drop-bad",
    "or pass defects=": "or give that folder itself, and its masks",
}
_DATA = ("layout", "category", "split", "square", "defect", "sheet")
_OPTIONS = (*_DATA, "side", "count", "seed", "out", "windows", "photos")


def training_images(arguments: argparse.Namespace, name: str = "GOOD_IMAGES") -> list[Value]:
    """The good images that ``train-backbone`` is given, or ``sample`` by an option."""
    with spoken(TRAINING, name):
        return good_images(arguments.good_images, **_choices(arguments))


def training_pairs(arguments: argparse.Namespace) -> DefectImages:
    """Images and masks that ``fit`` is given."""
    with spoken(TRAINING, "DEFECT_IMGS"):
        return defect_pairs(
            arguments.defect_imgs,
            arguments.masks,
            defect=arguments.defect,
            **_choices(arguments),
        )


def defect_of(arguments: argparse.Namespace) -> str:
    """The type of defect in the folders of MVTec AD, which no other format has.

    Raises:
        ConfigError: it is given for another format.
    """
    if arguments.defect is not None and arguments.format != "mvtec":
        raise ConfigError(
            f"--defect: belongs to --format mvtec; got {arguments.defect!r} with --format "
            f"{arguments.format}; leave it out, or add --format mvtec"
        )
    return DEFECT if arguments.defect is None else str(arguments.defect)


def check_reports(arguments: argparse.Namespace) -> list[DataReport]:
    """What ``data check`` finds, and its contact sheet."""
    with spoken(_SPOKEN, "path"):
        return check_data(
            arguments.path,
            layout=arguments.layout,
            category=arguments.category,
            split=arguments.split,
            square=arguments.square,
            sheet=arguments.sheet,
        )


def report_text(reports: Sequence[DataReport], sheet: str | None) -> str:
    """The reports, and where the contact sheet lies."""
    return _in_words("\n".join(describe(reports, sheet)), _SPOKEN)


def _choices(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("layout", "category", "split", "square", "drop_bad")
    return {name: getattr(arguments, name) for name in names}


@contextmanager
def spoken(words: dict[str, str], place: str) -> Iterator[None]:
    """Name arguments in errors as the command line does."""
    try:
        yield
    except (ConfigError, ImageError, MaskError) as error:
        name, colon, rest = str(error).partition(": ")
        if not rest.startswith("all must be usable"):  # or it is the name of a folder
            name = {option: f"--{option}" for option in _OPTIONS}.get(name, name)
            name = {"path": place, "masks": "MASKS", "samples": "SAMPLES"}.get(name, name)
        rest = rest.replace("in root;", f"in {place};").replace("check root", f"check {place}")
        raise type(error)(f"{name}{colon}{_in_words(rest, words)}") from error


def _in_words(text: str, words: dict[str, str]) -> str:
    for said, spoken in words.items():
        text = text.replace(said, spoken)
    return text

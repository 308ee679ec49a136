"""The arguments of the commands that read data sets: data, train-backbone, fit."""

from __future__ import annotations

import argparse
from typing import Any


class Parser(argparse.ArgumentParser):
    """Of one command. Takes options by their whole names: a shorter one may be another's tomorrow.

    Takes MASKS behind options too, where older Pythons take it for absent by then.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more | {"allow_abbrev": False})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in the base class."""
        found, rest = super().parse_known_args(args, namespace)
        if getattr(found, "masks", "") is None and len(rest) == 1 and not rest[0].startswith("-"):
            found.masks, rest = rest[0], []
        return found, rest


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``data``."""
    parser.add_argument("action", metavar="check", choices=("check",), help="read every picture")
    parser.add_argument("path", metavar="PATH", help="folder of a category, or of all, or your own")
    _add_layout(parser, "one folder in PATH (default: all)")
    parser.add_argument("--sheet", metavar="FILE.png", help="write a contact sheet there")


def add_good_images(parser: argparse.ArgumentParser) -> None:
    """What ``train-backbone`` learns from."""
    parser.add_argument(
        "good_images", metavar="GOOD_IMAGES", help="folder of good photos, or a data set"
    )
    _add_layout(parser, "one data set in GOOD_IMAGES, where there are several")
    add_drop_bad(parser)


def add_defect_images(parser: argparse.ArgumentParser) -> None:
    """What ``fit`` learns from."""
    parser.add_argument(
        "defect_imgs", metavar="DEFECT_IMGS", help="folder of defect photos, or a data set"
    )
    parser.add_argument(
        "masks",
        metavar="MASKS",
        nargs="?",
        help="of a folder of photos: folder of masks or annotations, or a COCO file",
    )
    parser.add_argument(
        "--defect", metavar="NAME", help="type of defect to learn, where there are several"
    )
    _add_layout(parser, "one data set in DEFECT_IMGS, where there are several")
    add_drop_bad(parser)


def add_backgrounds(parser: argparse.ArgumentParser, *, of_data_sets: bool = False) -> None:
    """What ``sample`` and ``evaluate`` draw defects on."""
    kind = "folder of good photos, or a data set," if of_data_sets else "folder of good photos"
    parser.add_argument(
        "--good-images",
        metavar="DIR",
        help=f"{kind} to draw the defects on (default: parts that the backbone draws)",
    )
    if of_data_sets:
        _add_layout(parser, "one data set in --good-images, where there are several")
        add_drop_bad(parser)


def _add_layout(parser: argparse.ArgumentParser, category: str) -> None:
    add_data_set(parser, category)
    parser.add_argument(
        "--square",
        choices=("crop", "pad"),
        help="oblong images: the middle, or borders repeated (default: pad for visa, else refused)",
    )


def add_data_set(parser: argparse.ArgumentParser, category: str) -> None:
    """Which data set is meant, and how it is arranged."""
    parser.add_argument(
        "--layout",
        choices=("auto", "mvtec", "visa", "folder"),
        default="auto",
        help="how the folders of a data set are arranged (default: what they look like)",
    )
    parser.add_argument("--category", metavar="NAME", help=category)
    parser.add_argument(
        "--split", metavar="NAME", help="of VisA: 1cls (default), 2cls_fewshot, or 2cls_highshot"
    )


def add_drop_bad(parser: argparse.ArgumentParser) -> None:
    """Whether files that cannot be used are left out."""
    parser.add_argument(
        "--drop-bad", action="store_true", help="leave out files that cannot be used, and say so"
    )

"""The arguments of ``windows``: cutting large photos, and putting samples back."""

from __future__ import annotations

import argparse

from defectgen.arguments_data import add_data_set, add_drop_bad

#: Name, description, and examples of the command.
WINDOWS = (
    "windows",
    "Cut windows of large photos at full size, and put samples back into the photos.",
    "  defectgen windows goods photos/good --side 128 --out windows/good\n"
    "  defectgen windows defects photos/scratch photos/scratch_masks --side 128 --out windows/bad\n"
    "  defectgen windows join samples --windows windows/good --photos photos/good --out full",
)


def add_windows_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions, each with its own arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    goods = actions.add_parser("goods", help="windows of good photos at random places")
    goods.add_argument("photos", metavar="PHOTOS", help="folder of good photos, or a data set")
    _add_cutting(goods)
    goods.add_argument("--seed", type=int, default=0, help="of the places (default: 0)")
    defects = actions.add_parser("defects", help="windows around defects, with their masks")
    defects.add_argument("photos", metavar="PHOTOS", help="folder of defect photos, or a data set")
    defects.add_argument(
        "masks",
        metavar="MASKS",
        nargs="?",
        help="of a folder of photos: folder of masks or annotations, or a COCO file",
    )
    defects.add_argument("--defect", metavar="NAME", help="type of defect, where there are several")
    _add_cutting(defects)
    join = actions.add_parser("join", help="samples drawn on windows, put back into the photos")
    join.add_argument("samples", metavar="SAMPLES", help="written by sample --good-images WINDOWS")
    join.add_argument("--windows", required=True, metavar="DIR", help="written by windows goods")
    join.add_argument("--photos", required=True, metavar="DIR", help="of which they were cut")
    join.add_argument("--out", required=True, metavar="DIR", help="new or empty folder")
    join.add_argument(
        "--format",
        choices=("plain", "mvtec"),
        default="plain",
        help="folders: images and masks (default), or those of MVTec AD",
    )
    join.add_argument(
        "--defect", metavar="NAME", help="type of defect in mvtec's folders (default: defect)"
    )


def _add_cutting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--side", type=int, required=True, metavar="PIXELS", help="the backbone's resolution"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument(
        "--count", type=int, default=4, help="windows of each photo at most (default: 4)"
    )
    add_data_set(parser, "one data set in PHOTOS, where there are several")
    add_drop_bad(parser)

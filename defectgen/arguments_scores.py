"""The arguments of the commands that judge samples by real photos: evaluate, downstream."""

from __future__ import annotations

import argparse

from defectgen.arguments_data import add_backgrounds

#: How pairs are given: a folder of images and one of masks.
PAIRS = ("IMGS", "MASKS")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``evaluate`` compares with."""
    parser.add_argument("real_imgs", metavar="REAL_IMGS", help="folder of real defects")
    parser.add_argument("real_masks", metavar="REAL_MASKS", help="folder of their masks")
    parser.add_argument(
        "--training",
        nargs=2,
        metavar=PAIRS,
        help="what fit got: for memorization, IC-LPIPS and the copy-paste yardstick",
    )
    add_backgrounds(parser)


def add_downstream_arguments(parser: argparse.ArgumentParser) -> None:
    """What the detectors of ``downstream`` learn from, and what they are shown then."""
    parser.add_argument("--training", nargs=2, required=True, metavar=PAIRS, help="what fit got")
    parser.add_argument(
        "--test", nargs=2, required=True, metavar=PAIRS, help="defects that fit did not get"
    )
    parser.add_argument("--goods", required=True, metavar="DIR", help="folder of good photos")
    parser.add_argument(
        "--test-goods", metavar="DIR", help="others for the test (default: every fifth of --goods)"
    )
    parser.add_argument(
        "--on-goods", action="store_true", help="draw the samples on the photos of --goods"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="trainings of each of four kinds, 2 or more (default: 3)",
    )
    parser.add_argument("--steps", type=int, default=300, help="of each training (default: 300)")

"""Does a fit learn real defects? Six sets at 64 px, backbones, fits, scores, the downstream test.

    python benchmarks/learning.py --data DATA             # everything that is not yet done
    python benchmarks/learning.py --data DATA --sets magnetic_tile/break --recipes default --seeds 0

``DATA`` holds ``mvtec_bottle``, ``magnetic_tile`` and ``hazelnut_toy`` in the layout of MVTec AD at
256 px; ``--sets`` knows seven more, on which no recipe was chosen (``learning_sets.UNSEEN``).
Backbones, fits and results lie in ``--cache``; run again, it goes on where it was stopped, also
within a fit. ``--parts`` leaves out what takes longest. At the end the table of whatever has
been measured so far is printed. What ``--results`` holds was measured before, perhaps elsewhere,
and is not measured again; what is new is added there: the work can be spread over machines.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.learning_records import Key, Measured, Records

    Train = Callable[[], Path]
    Score = Callable[[Path, str, int, Path], Measured]

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PARTS = ("scores", "downstream")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/defectgen-learning")
    parser.add_argument("--sets", nargs="+", help="default: the six")
    parser.add_argument("--recipes", nargs="*", default=["default", "dfmgan", "dfmgan-time"])
    parser.add_argument("--backbones", nargs="*", default=["default", "plain"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing, show what there is")
    parser.add_argument("--results", type=Path, help="folder of records, read and added to")
    return parser.parse_args()


def main() -> None:
    """Do what is missing, then print what there is."""
    given = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    import torch

    from benchmarks.learning_records import Records
    from benchmarks.learning_table import render

    torch.set_num_threads(given.threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # notes of what was done are written
    records = Records.read(given.results) if given.results else Records()
    new = Records()
    try:
        measure(given, records, new)
    finally:
        records.add(new)
        if given.results:
            new.write_into(given.results)
    print(render(records, given.backbones, given.recipes))


def measure(given: argparse.Namespace, known: Records, new: Records) -> None:
    """Measure, or find in the cache, what is wanted and not known yet."""
    from benchmarks.learning_records import beside, keep

    for key, folder, train, score in wanted(given):
        part, label, name, seed = key
        path = beside(folder, part)
        if key in known.found or (given.table and not path.is_file()):
            continue
        if not given.table:
            train()
            keep(path, partial(score, folder, name, seed, given.data))
            print(f"{part} of {label} {name} seed {seed}: done", flush=True)
        new.take(key, path)


def wanted(given: argparse.Namespace) -> Iterator[tuple[Key, Path, Train, Score]]:
    """All that was asked for: key, folder of the weights, how these and the record are made."""
    from benchmarks.learning_backbones import backbone_folder, backbone_of, goods_of
    from benchmarks.learning_fits import fit_folder, fit_of
    from benchmarks.learning_scores import downstream_of, scores_of
    from benchmarks.learning_sets import ALL, SETS

    names = given.sets or list(SETS)
    products = dict.fromkeys(ALL[name][0] for name in names)
    for label, product, seed in itertools.product(given.backbones, products, given.seeds):
        train = partial(backbone_of, product, label, seed, given.data, given.cache)
        folder = backbone_folder(product, label, seed, given.cache)
        yield ("goods", label, product, seed), folder, train, goods_of
    parts = {"scores": scores_of, "downstream": downstream_of}
    for label, name, seed in itertools.product(given.recipes, names, given.seeds):
        train = partial(fit_of, name, label, seed, given.data, given.cache)
        folder = fit_folder(name, label, seed, given.cache)
        for part in given.parts:
            yield (part, label, name, seed), folder, train, parts[part]


if __name__ == "__main__":
    main()

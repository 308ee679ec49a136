"""Does a fit learn real defects? Six sets at 64 px, backbones, fits, scores, the downstream test.

    python benchmarks/learning.py --data DATA             # everything that is not yet done
    python benchmarks/learning.py --data DATA --sets magnetic_tile/break --recipes default --seeds 0

``DATA`` holds ``mvtec_bottle``, ``magnetic_tile`` and ``hazelnut_toy`` in the layout of MVTec AD at
256 px. Backbones, fits and results lie in ``--cache``; run again, it goes on where it was stopped,
also within a fit. ``--parts`` leaves out what takes longest. At the end the table of whatever has
been measured so far is printed and written to ``--out``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PARTS = ("scores", "downstream")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/defectgen-learning")
    parser.add_argument("--sets", nargs="+", help="default: all six")
    parser.add_argument("--recipes", nargs="*", default=["default", "dfmgan", "dfmgan-time"])
    parser.add_argument("--backbones", nargs="*", default=["default", "plain"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing, show what there is")
    parser.add_argument("--out", type=Path, help="where the table goes, as JSON")
    return parser.parse_args()


def main() -> None:
    """Do what is missing, then print what there is."""
    given = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    import torch

    from benchmarks.learning_backbones import backbone_folder, backbone_of, goods_of
    from benchmarks.learning_fits import fit_folder, fit_of
    from benchmarks.learning_scores import downstream_of, scores_of
    from benchmarks.learning_sets import SETS
    from benchmarks.learning_table import Records, render

    torch.set_num_threads(given.threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # notes of what was done are written
    steps = {"scores": scores_of, "downstream": downstream_of}
    names = given.sets or list(SETS)
    found: dict[tuple[str, str, str, int], tuple[dict[str, Any], Path]] = {}
    products = dict.fromkeys(SETS[name][0] for name in names)
    for label, product, seed in itertools.product(given.backbones, products, given.seeds):
        folder = backbone_folder(product, label, seed, given.cache)
        if given.table and not folder.with_name(folder.name + "-goods.json").is_file():
            continue
        backbone_of(product, label, seed, given.data, given.cache)
        record = goods_of(folder, product, seed, given.data)
        found["goods", label, product, seed] = record, folder
        print(f"backbone {label} {product} seed {seed}: done", flush=True)
    for label, name, seed in itertools.product(given.recipes, names, given.seeds):
        folder = fit_folder(name, label, seed, given.cache)
        for part in given.parts:
            if given.table and not folder.with_name(f"{folder.name}-{part}.json").is_file():
                continue
            fit_of(name, label, seed, given.data, given.cache)
            record = steps[part](folder, name, seed, given.data)
            found[part, label, name, seed] = record, folder
        print(f"{label} {name} seed {seed}: done", flush=True)
    print(render(Records(found), given.backbones, given.recipes))
    if given.out:
        records = {"/".join(map(str, key)): record for key, (record, _) in found.items()}
        given.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Learn two real products end to end, as the lab notes report: bottles and magnetic tiles.

    python examples/real_data.py bottle --data DATA --backbone-kimg 100 --defect-kimg 40
    python examples/real_data.py tile --data DATA --backbone-kimg 50 --defect-kimg 40

``DATA`` holds ``mvtec_bottle`` and ``magnetic_tile`` in the layout of MVTec AD at 256 px. Bottles
are shrunk to 64 px. Blowholes of tiles are a few pixels wide, so 64 px windows are cut instead:
one around each blowhole, random ones of the goods; of all exposures of one tile, which
``approx_groups.csv`` lists, only the first is taken. Writes into ``--out``: both models, their run
folders, 200 samples, ``contact_sheet.png`` and ``scores.json``. Run again, it goes on where it was
stopped; ``--only`` runs one of the two fits.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import random
import shutil
import time
from pathlib import Path

import torch
from PIL import Image

from defectgen import Backbone, DefectBatch, DefectSynthesizer
from defectgen.data.images import PairSet, load_pairs
from defectgen.networks.defect import receptive_radius
from defectgen.scores import PROTOCOLS, score_table
from defectgen.sheet import SheetRow, contact_sheet
from defectgen.writer import write_samples

SIDE, SAMPLES, COLUMNS = 64, 200, 10
#: Windows cut from each good tile.
WINDOWS = 4
#: A blowhole keeps this distance from the border of its window, where the tile allows it.
MARGIN = 6

Pictures = list[Image.Image]
log = logging.getLogger("real_data")


def main() -> None:
    """Fit the backbone, fit the defect, sample, score and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("product", choices=("bottle", "tile"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone-kimg", type=float, default=100.0)
    parser.add_argument("--defect-kimg", type=float, default=40.0)
    parser.add_argument("--only", choices=("backbone", "defect"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: out/real/PRODUCT")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = arguments.out or Path("out/real") / arguments.product
    channels = 3 if arguments.product == "bottle" else 1
    if arguments.only != "defect":
        goods = good_pictures(arguments.product, arguments.data, arguments.seed)
        backbone = Backbone(
            SIDE,
            channels=channels,
            kimg=arguments.backbone_kimg,
            run_dir=out / "runs" / "backbone",
            seed=arguments.seed,
            verbose=2,
        )
        began = time.perf_counter()
        backbone.fit(goods, resume=True)
        log.info("backbone: %.1f min", (time.perf_counter() - began) / 60)
        backbone.save_pretrained(out / "backbone")
    if arguments.only != "backbone":
        images, masks = defect_pictures(arguments.product, arguments.data, arguments.seed)
        synth = DefectSynthesizer(
            out / "backbone",
            kimg=arguments.defect_kimg,
            run_dir=out / "runs" / "defect",
            seed=arguments.seed,
            verbose=2,
        )
        began = time.perf_counter()
        synth.fit(images, masks, resume=True)
        log.info("defect: %.1f min", (time.perf_counter() - began) / 60)
        synth.save_pretrained(out / "synthesizer")
        real = load_pairs(images, masks, resolution=SIDE, channels=channels)
        show(synth, real, out, arguments.seed)


# -- pictures --------------------------------------------------------------------------------------


def good_pictures(product: str, data: Path, seed: int) -> Pictures:
    """What the backbone learns: whole bottles, or random windows of one exposure of each tile."""
    if product == "bottle":
        return [opened(path) for path in sorted((data / "mvtec_bottle/train/good").iterdir())]
    tiles = data / "magnetic_tile"
    draw = random.Random(seed)
    windows = []
    for name in first_of_each_group(tiles, "good"):
        path = tiles / "train/good" / f"{name}.jpg"
        if path.is_file():  # the others are test images
            picture = opened(path)
            for _ in range(WINDOWS):
                left = draw.randint(0, picture.width - SIDE)
                top = draw.randint(0, picture.height - SIDE)
                windows.append(picture.crop((left, top, left + SIDE, top + SIDE)))
    return windows


def defect_pictures(product: str, data: Path, seed: int) -> tuple[Pictures, Pictures]:
    """Images and masks of the defect to learn."""
    if product == "bottle":
        folder, kind = data / "mvtec_bottle", "broken_large"
        names = sorted(path.stem for path in (folder / "test" / kind).iterdir())
    else:
        folder, kind = data / "magnetic_tile", "blowhole"
        names = first_of_each_group(folder, kind)
    images, masks = [], []
    draw = random.Random(seed)
    for name in names:
        image = opened(next((folder / "test" / kind).glob(f"{name}.*")))
        mask = opened(folder / "ground_truth" / kind / f"{name}_mask.png")
        if product == "tile":
            box = window_around(mask, draw)
            image, mask = image.crop(box), mask.crop(box)
        images.append(image)
        masks.append(mask)
    return images, masks


def first_of_each_group(tiles: Path, kind: str) -> list[str]:
    """Names of the first exposure of each physical tile of this class."""
    with (tiles / "approx_groups.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == kind]
    firsts: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row["name"]):
        firsts.setdefault(row["approx_tile_group"], row["name"])
    return sorted(firsts.values())


def window_around(mask: Image.Image, draw: random.Random) -> tuple[int, int, int, int]:
    """A random window that holds the whole defect; one larger than a window is centered."""
    found = mask.getbbox()  # never None: no mask of this data set is empty
    left = _start(found[0], found[2], mask.width, draw)
    top = _start(found[1], found[3], mask.height, draw)
    return left, top, left + SIDE, top + SIDE


def _start(low: int, high: int, side: int, draw: random.Random) -> int:
    """Where the window begins along one axis for a defect from ``low`` to ``high``."""
    first, last = high + MARGIN - SIDE, low - MARGIN
    start = draw.randint(first, last) if first <= last else (low + high - SIDE) // 2
    return min(max(start, 0), side - SIDE)


def opened(path: Path) -> Image.Image:
    """The picture, read now."""
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()


# -- result ----------------------------------------------------------------------------------------


def show(synth: DefectSynthesizer, real: PairSet, out: Path, seed: int) -> None:
    """Write samples, sheet and scores."""
    batches = list(synth.iter_samples(SAMPLES, seed=seed, return_normals=True))
    samples = DefectBatch.concat(batches)
    first = synth.branch_.resolutions[0]
    scores = score_table(real, samples, receptive_radius(first, SIDE))
    backbone = synth.backbone_
    record = {
        "scores": {name: {"value": scores[name], "protocol": PROTOCOLS[name]} for name in scores},
        "samples": SAMPLES,
        "threads": torch.get_num_threads(),
        "backbone": backbone.config_,
        "synthesizer": synth.config_,
    }
    (out / "scores.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    log.info("%s", "\n".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    images, masks, normals = samples.triplets()
    goods = backbone.sample(COLUMNS, seed=seed + SAMPLES)
    rows = [
        SheetRow("real defects, mask outlined", real.images, real.masks),
        SheetRow("generated goods", goods),
    ]
    for start in (0, COLUMNS):
        some = slice(start, start + COLUMNS)
        rows += [
            SheetRow("generated defects, mask outlined", images[some], masks[some]),
            SheetRow("the same, without outline", images[some]),
            SheetRow("their good twins", normals[some]),
        ]
    contact_sheet(rows, out / "contact_sheet.png", columns=COLUMNS)
    target = out / "samples"
    if target.exists():  # of an earlier model
        shutil.rmtree(target)
    digests = {"backbone_digest": synth.backbone_digest_, "data_digest": real.digest}
    write_samples([samples], target, metadata={"truncation_psi": 1.0, **digests})


if __name__ == "__main__":
    main()

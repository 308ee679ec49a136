"""The sets on which learning is judged: real products, real defects, fixed splits, 64 px.

The data lie in the layout of MVTec AD at 256 px. Bottles and hazelnuts are shrunk to 64 px. Defects
of magnetic tiles and circuits are a few pixels wide, so windows of 64 px are cut instead: one
around each defect, random ones of the goods; of all exposures of one tile, which
``approx_groups.csv`` lists, and of all defects of one circuit, only the first is taken. A defect is
learned from the first max(5, floor(n / 3)) images by name; the rest is for the test. Tests never
show to a fit, nor to what chooses among candidates.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defectgen.data.images import ImageSet, PairSet, load_images, load_pairs

SIDE = 64
#: Windows cut from each good tile.
WINDOWS = 4
#: A defect keeps this distance from the border of its window, where the tile allows it.
MARGIN = 6
#: A set with fewer test images is reported and decides nothing.
FEWEST = 5

Pictures = list[Image.Image]


@dataclass(frozen=True)
class Product:
    """One kind of part.

    Attributes:
        name: its folder.
        channels: 3 or 1.
        tiled: cut windows instead of shrinking.
    """

    name: str
    channels: int
    tiled: bool = False


PRODUCTS = {
    "bottle": Product("mvtec_bottle", 3),
    "tile": Product("magnetic_tile", 1, tiled=True),
    "hazelnut": Product("hazelnut_toy", 3),
    "circuit": Product("deeppcb_20085", 1, tiled=True),
}
#: The six sets: product and folder of the defect. Recipes were chosen on these.
SETS = {
    "mvtec_bottle/broken_large": ("bottle", "broken_large"),
    "mvtec_bottle/broken_small": ("bottle", "broken_small"),
    "mvtec_bottle/contamination": ("bottle", "contamination"),
    "magnetic_tile/break": ("tile", "break"),
    "magnetic_tile/crack": ("tile", "crack"),
    "hazelnut_toy/colour": ("hazelnut", "colour"),
}
#: Sets on which nothing was chosen up to f6d2346: what other defects and products may expect. Since
#: then `known.REGION` and `regions.LINES` (on the uneven tiles) and, on the first two of circuits,
#: what warns of a poor backbone and how defects are drawn without a good one (`known.EXPLAINED`,
#: `known.GRAY`, `seams`) were. Nothing was on the last three.
UNSEEN = {
    "magnetic_tile/blowhole": ("tile", "blowhole"),
    "magnetic_tile/uneven": ("tile", "uneven"),
    "deeppcb_20085/mousebite": ("circuit", "mousebite"),
    "deeppcb_20085/open": ("circuit", "open"),
    "deeppcb_20085/pin_hole": ("circuit", "pin_hole"),
    "deeppcb_20085/short": ("circuit", "short"),
    "deeppcb_20085/spur": ("circuit", "spur"),
}
ALL = {**SETS, **UNSEEN}


def load_goods(data: Path, product: str) -> tuple[ImageSet, ImageSet]:
    """Good images: those that are learned from, and those of the test."""
    part = PRODUCTS[product]
    both = (good_pictures(data, part, "train"), good_pictures(data, part, "test"))
    train, test = (load_images(some, resolution=SIDE, channels=part.channels) for some in both)
    return train, test


def load_defects(data: Path, name: str) -> tuple[PairSet, PairSet]:
    """Pairs of one set: those that are learned from, and those of the test."""
    product, kind = ALL[name]
    part = PRODUCTS[product]
    images, masks = defect_pictures(data, part, kind)
    first = max(5, len(images) // 3)
    train, test = (
        load_pairs(images[some], masks[some], resolution=SIDE, channels=part.channels)
        for some in (slice(first), slice(first, None))
    )
    return train, test


def good_pictures(data: Path, part: Product, split: str) -> Pictures:
    """Whole parts, or random windows of one exposure of each tile of this split."""
    folder = data / part.name
    if not part.tiled:
        return [opened(path) for path in sorted((folder / split / "good").iterdir())]
    draw = random.Random(split)
    windows = []
    for name in first_of_each_group(folder, "good"):
        for path in (folder / split / "good").glob(f"{name}.*"):
            picture = opened(path)
            for _ in range(WINDOWS):
                left = draw.randint(0, picture.width - SIDE)
                top = draw.randint(0, picture.height - SIDE)
                windows.append(picture.crop((left, top, left + SIDE, top + SIDE)))
    return windows


def defect_pictures(data: Path, part: Product, kind: str) -> tuple[Pictures, Pictures]:
    """Images and masks of one defect, in the order of their names."""
    folder = data / part.name
    if part.tiled:
        names = first_of_each_group(folder, kind)
    else:
        names = sorted(path.stem for path in (folder / "test" / kind).iterdir())
    images, masks = [], []
    for name in names:
        image = opened(next((folder / "test" / kind).glob(f"{name}.*")))
        mask = opened(folder / "ground_truth" / kind / f"{name}_mask.png")
        if part.tiled:
            box = window_around(mask, random.Random(name))
            image, mask = image.crop(box), mask.crop(box)
        images.append(image)
        masks.append(mask)
    return images, masks


def first_of_each_group(tiles: Path, kind: str) -> list[str]:
    """Names of this class: the first exposure of each tile, the first defect of each circuit."""
    if not (tiles / "approx_groups.csv").is_file():
        paths = [path for part in ("train", "test") for path in (tiles / part / kind).glob("*")]
        firsts = {path.stem.split("_")[0]: path.stem for path in sorted(paths, reverse=True)}
        return sorted(firsts.values())
    with (tiles / "approx_groups.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == kind]
    firsts: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row["name"]):
        firsts.setdefault(row["approx_tile_group"], row["name"])
    return sorted(firsts.values())


def window_around(mask: Image.Image, draw: random.Random) -> tuple[int, int, int, int]:
    """A random window with the whole defect; of a larger one, that around a piece of its edge."""
    found = np.array(mask) > 127
    rows, columns = np.nonzero(found)  # never empty in this data set
    inner = np.pad(found, 1, mode="edge")
    inner = inner[2:, 1:-1] & inner[:-2, 1:-1] & inner[1:-1, 2:] & inner[1:-1, :-2]
    edge = np.argwhere(found & ~inner)
    y, x = edge[draw.randrange(len(edge))]
    left = _start(columns, int(x), mask.width, draw)
    top = _start(rows, int(y), mask.height, draw)
    return left, top, left + SIDE, top + SIDE


def _start(used: NDArray[np.intp], center: int, side: int, draw: random.Random) -> int:
    """Where the window begins along one axis for a defect that covers ``used``."""
    first, last = int(used.max()) + 1 + MARGIN - SIDE, int(used.min()) - MARGIN
    start = draw.randint(first, last) if first <= last else center - SIDE // 2
    return min(max(start, 0), side - SIDE)


def opened(path: Path) -> Image.Image:
    """The picture, read now."""
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()

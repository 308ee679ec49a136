"""Small data sets on disk, in the layouts of their owners."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sample_pictures import Pixels, noise, save


def photo(path: Path, seed: int, size: tuple[int, int] = (40, 40)) -> Path:
    """Write a picture of (height, width) that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, noise(max(size), seed=seed)[: size[0], : size[1]])


def spot(size: tuple[int, int] = (40, 40), value: int = 255, at: int = 10) -> Pixels:
    """A mask of (height, width) with a square of 10 px."""
    mask = np.zeros(size, np.uint8)
    mask[at : at + 10, at : at + 10] = value
    return mask


def mask(path: Path, pixels: Pixels | None = None) -> Path:
    """Write a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, spot() if pixels is None else pixels)


def mvtec(root: Path, category: str = "bottle", kinds: Sequence[str] = ("crack", "dent")) -> Path:
    """Three good images, one for tests, and two images of each kind; returns the category."""
    home = root / category
    for k in range(3):
        photo(home / "train" / "good" / f"{k:03d}.png", k)
    photo(home / "test" / "good" / "000.png", 10)
    for index, kind in enumerate(kinds):
        for k in range(2):
            photo(home / "test" / kind / f"{k:03d}.png", 20 + 10 * index + k)
            mask(home / "ground_truth" / kind / f"{k:03d}_mask.png")
    return home


#: Label and class values of the anomalous images of a small VisA.
ANOMALIES = {
    "000": ("chunk of wax missing", (1,)),
    "001": ("chunk of wax missing", (1,)),
    "002": ("foreign particals on candle", (2,)),
    "003": ("chunk of wax missing,foreign particals on candle", (1, 2)),
}


def visa(root: Path, category: str = "candle", size: tuple[int, int] = (48, 64)) -> Path:
    """Four normal images, one for tests, and four anomalous ones; returns the category."""
    home = root / category
    data = f"{category}/Data"
    annotations, split = [], []
    for k in range(4):
        name = f"{data}/Images/Normal/{k:04d}.JPG"
        photo(root / name, k, size)
        annotations.append([name, "normal", ""])
        split.append([category, "test" if k == 3 else "train", "normal", name, ""])
    for index, (stem, (label, values)) in enumerate(ANOMALIES.items()):
        name, truth = f"{data}/Images/Anomaly/{stem}.JPG", f"{data}/Masks/Anomaly/{stem}.png"
        photo(root / name, 50 + index, size)
        pixels = np.zeros(size, np.uint8)
        for value in values:
            pixels |= spot(size, value, at=4 + 14 * value)
        mask(root / truth, pixels)
        annotations.append([name, label, truth])
        split.append([category, "test", "anomaly", name, truth])
    table(home / "image_anno.csv", ["image", "label", "mask"], annotations)
    table(root / "split_csv" / "1cls.csv", ["object", "split", "label", "image", "mask"], split)
    few = [[c, "train" if n.endswith("000.JPG") else s, *rest, n, m] for c, s, *rest, n, m in split]
    table(
        root / "split_csv" / "2cls_fewshot.csv", ["object", "split", "label", "image", "mask"], few
    )
    return home


def table(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    """Write a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def palette(path: Path, pixels: Pixels) -> Path:
    """Write a mask whose values are indices of a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels).convert("P")
    image.putdata([int(value) for value in pixels.reshape(-1)])
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.save(path)
    return path

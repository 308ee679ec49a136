"""Make the embedded example from the hazelnut_toy data set (CC BY 4.0, see NOTICE).

    python examples/make_example_data.py SOURCE

SOURCE holds ``train/good``, ``test/colour`` and ``ground_truth/colour``. Images are resized to
64 px by the library's own funnel and stored as optimized PNG files under their old stems.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from defectgen.data.example import example_folders
from defectgen.data.images import load_images, load_pairs


def write(images: Tensor, names: tuple[str, ...], folder: Path, factor: int = 1) -> None:
    """One PNG per image."""
    folder.mkdir(parents=True, exist_ok=True)
    for image, name in zip(images, names, strict=True):
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy() * factor)
        picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
        picture.save(folder / f"{Path(name).stem}.png", optimize=True)


def main() -> None:
    """Read, resize, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    target = example_folders()
    good = load_images(source / "train" / "good", resolution=64, channels=3)
    write(good.images, good.names, target.good)
    pairs = load_pairs(
        source / "test" / "colour", source / "ground_truth" / "colour", resolution=64, channels=3
    )
    write(pairs.images, pairs.names, target.defects)
    write(pairs.masks, pairs.names, target.masks, factor=255)


if __name__ == "__main__":
    main()

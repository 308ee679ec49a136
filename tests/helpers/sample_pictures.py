"""Small pictures, and the loader as the tests of pictures call it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from defectgen.data.images import ImageSet, load_images
from defectgen.errors import ImageError

Pixels = NDArray[np.uint8]


def noise(side: int = 40, channels: int = 3, seed: int = 0) -> Pixels:
    # Smooth, so that resizing is not all about aliasing.
    rng = np.random.default_rng(seed)
    shape = (8, 8, 3) if channels == 3 else (8, 8)
    small = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def load(source: object, resolution: int | None = 32, channels: int = 3) -> ImageSet:
    return load_images(source, resolution=resolution, channels=channels)  # type: ignore[arg-type]


def one(source: object, channels: int = 3) -> Tensor:
    return load([source], channels=channels).images[0]


def refused(source: object, match: str, channels: int = 3) -> None:
    with pytest.raises(ImageError, match=match):
        load([source], channels=channels)


def save(path: Path, pixels: Pixels) -> Path:
    Image.fromarray(pixels).save(path)
    return path

"""Pictures that are made when they are read: maps of classes, and squares from oblong photos."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defectgen.data.masks import decode_mask
from defectgen.data.sources import Deferred, Unusable, Value, open_picture, read_size

#: How an oblong photo becomes square: the middle of it, or borders repeated; None refuses it.
Square: TypeAlias = Literal["crop", "pad"] | None
SQUARES: tuple[Square, ...] = (None, "crop", "pad")


class AnyClass(Deferred):
    """A mask with one value per class: whatever is not 0 is the defect.

    Args:
        path: A file of 8 or 16 bits gray, with a palette (its indices count), or in color.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def __str__(self) -> str:
        return str(self.path)

    def size(self) -> tuple[int, int] | None:
        """Return (height, width) from the header of the file."""
        return read_size(self.path)

    def open(self) -> Image.Image:
        """Return a picture of mode L with 0 and 255."""
        image = open_picture(self.path)
        if image.mode in ("LA", "La", "RGBA", "RGBa"):
            # Alpha says nothing about classes.
            image = image.convert("L" if image.mode in ("LA", "La") else "RGB")
        if image.mode not in ("1", "L", "P", "RGB") and not image.mode.startswith("I"):
            raise Unusable(f"has the PIL mode {image.mode}: save it as 8-bit grayscale")
        values = np.asarray(image)
        return as_picture((values != 0).any(axis=2) if values.ndim == 3 else values != 0)


class SquareImage(Deferred):
    """An oblong photo, made square.

    Args:
        source: The photo.
        square: "crop" or "pad".
    """

    def __init__(self, source: Value, square: Square) -> None:
        self.source, self.square = source, square
        self.name = source.name if isinstance(source, (Path, Deferred)) else "picture"

    def __str__(self) -> str:
        return str(self.source)

    def size(self) -> tuple[int, int] | None:
        """Return the side twice."""
        return _square_size(read_size(self.source), self.square)

    def open(self) -> Image.Image:
        """Return the square in the mode of the photo; a palette becomes RGB."""
        return square_image(open_picture(self.source), self.square)


class SquareMask(SquareImage):
    """The mask of an oblong photo, made square in the same way; borders added are background."""

    def open(self) -> Image.Image:
        """Return a picture of mode L with 0 and 255."""
        mask, _ = decode_mask(self.source)
        return as_picture(square_mask(mask, self.square))


def square_image(image: Image.Image, square: Square) -> Image.Image:
    """Cut the middle out of a photo, or repeat its outermost pixels until it is square."""
    if image.width == image.height or square is None:
        return image
    if image.mode in ("1", "P", "PA"):
        # Neither bits nor indices may be repeated as numbers.
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.asarray(image)
    rows, columns = _windows(image.height, image.width, square)
    if square == "crop":
        return Image.fromarray(np.ascontiguousarray(pixels[rows, columns]))
    before_and_after = _borders(image.height, image.width)
    return Image.fromarray(np.pad(pixels, before_and_after[: pixels.ndim], mode="edge"))


def square_mask(mask: NDArray[np.bool_], square: Square) -> NDArray[np.bool_]:
    """Do to a mask (H, W) what `square_image` does to its photo; borders added are False."""
    height, width = mask.shape
    if height == width or square is None:
        return mask
    if square == "crop":
        rows, columns = _windows(height, width, square)
        return mask[rows, columns]
    return np.pad(mask, _borders(height, width)[:2])


def as_picture(mask: NDArray[np.bool_]) -> Image.Image:
    """Return a mask (H, W) as a picture of mode L with 0 and 255."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def _square_size(size: tuple[int, int] | None, square: Square) -> tuple[int, int] | None:
    if size is None or square is None:
        return size
    side = min(size) if square == "crop" else max(size)
    return side, side


def _windows(height: int, width: int, square: Square) -> tuple[slice, slice]:
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def _borders(height: int, width: int) -> list[tuple[int, int]]:
    side = max(height, width)
    borders = [((side - n) // 2, side - n - (side - n) // 2) for n in (height, width)]
    return [*borders, (0, 0)]

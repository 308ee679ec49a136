"""Outlines and run lengths, as annotation files hold them, drawn as masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defectgen.data.deferred import as_picture
from defectgen.data.sources import MAX_PIXELS, Deferred, Unusable, open_picture, read_size

MAX_COORDINATE = 1e6  # pixels; more is no place in a picture


@dataclass(frozen=True)
class Polygon:
    """A closed outline.

    Attributes:
        points: (x, y), from the left upper corner of the picture; pixel i covers i to i + 1. In
            pixels, or as shares of width and height.
    """

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Circle:
    """A disk.

    Attributes:
        center: (x, y), as the points of a `Polygon`, in pixels.
        radius: in pixels.
    """

    center: tuple[float, float]
    radius: float


Shape: TypeAlias = "Polygon | Circle | Runs"


@dataclass(frozen=True)
class Runs:
    """Run lengths of background and defect in turn, down the columns, beginning with background.

    Attributes:
        counts: lengths in pixels, which add up to all pixels.
    """

    counts: tuple[int, ...]


class DrawnMask(Deferred):
    """The union of shapes as a mask.

    Args:
        name: What messages call it: the annotation file and the image.
        shapes: What is drawn.
        size: (height, width) in pixels.
    """

    def __init__(self, name: str, shapes: Sequence[Shape], size: tuple[int, int] | None) -> None:
        self.name, self.shapes = name, tuple(shapes)
        self._size = size

    def __str__(self) -> str:
        return self.name

    def size(self) -> tuple[int, int] | None:
        """Return (height, width)."""
        return self._size

    def open(self) -> Image.Image:
        """Return a picture of mode L with 0 and 255."""
        size = self.size()
        if size is None:
            raise Unusable("has no size: state height and width")
        return self._draw(size, self.shapes)

    def _draw(self, size: tuple[int, int], shapes: Sequence[Shape]) -> Image.Image:
        if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            raise Unusable(
                f"is {size[1]}x{size[0]}: 1 to {MAX_PIXELS // 10**6} megapixels are read"
            )
        mask = np.zeros(size, np.bool_)
        for shape in shapes:
            if isinstance(shape, Runs):
                mask |= unroll(shape, size)
            else:
                fill(mask, shape)
        return as_picture(mask)


#: What annotations tell: image -> the types of its defects, and its mask.
Drawn: TypeAlias = dict[Path, tuple[frozenset[str], DrawnMask]]


class ScaledMask(DrawnMask):
    """Polygons in shares of width and height, drawn at the size of their image."""

    def __init__(self, name: str, shapes: Sequence[Polygon], image: Path) -> None:
        super().__init__(name, shapes, None)
        self.image = image

    def size(self) -> tuple[int, int] | None:
        """Return (height, width) of the image file."""
        return read_size(self.image)

    def open(self) -> Image.Image:
        """Return a picture of mode L with 0 and 255."""
        # The header does not know of an EXIF turn, and the outlines are those of the upright image.
        width, height = open_picture(self.image).size
        scaled = [
            Polygon(tuple((x * width, y * height) for x, y in shape.points))
            for shape in self.shapes
            if isinstance(shape, Polygon)
        ]
        return self._draw((height, width), scaled)


def polygon(values: Sequence[object], limit: float = MAX_COORDINATE) -> Polygon:
    """Make an outline of x1, y1, x2, y2, ...

    Args:
        values: Finite numbers of magnitude up to `limit`, at least three points.
        limit: The largest magnitude that makes sense.

    Raises:
        Unusable: anything else.
    """
    numbers = coordinates(values, limit)
    if len(numbers) < 6 or len(numbers) % 2:
        raise Unusable(f"has an outline of {len(numbers)} numbers: x and y of 3 points are needed")
    return Polygon(tuple(zip(numbers[::2], numbers[1::2], strict=True)))


def coordinates(values: Sequence[object], limit: float = MAX_COORDINATE) -> list[float]:
    """Return finite numbers of magnitude up to `limit`.

    Raises:
        Unusable: anything else.
    """
    numbers: list[float] = []
    for value in values:
        # So written that NaN is refused too.
        if not isinstance(value, (int, float)) or not abs(value) <= limit:
            raise Unusable(f"has the coordinate {value!r:.40}: up to {limit:g} are read")
        numbers.append(float(value))
    return numbers


def fill(mask: NDArray[np.bool_], shape: Polygon | Circle) -> None:
    """Mark the pixels whose centers lie inside an outline.

    Args:
        mask: (H, W), changed in place, in the rows of the outline alone.
        shape: In pixels; what lies outside the picture is cut off.
    """
    if isinstance(shape, Polygon):
        ys = [y for _, y in shape.points]
    else:
        ys = [shape.center[1] - shape.radius, shape.center[1] + shape.radius]
    first, last = (_centers_above(y, len(mask)) for y in (min(ys), max(ys)))
    rows, width = np.arange(first, last), mask.shape[1]
    if first < last:
        mask[first:last] |= (
            _inside_polygon(shape, rows, width)
            if isinstance(shape, Polygon)
            else _inside_circle(shape, rows, width)
        )


def _centers_above(y: float, height: int) -> int:
    """How many of the rows have their centers above y."""
    return min(max(math.ceil(y - 0.5), 0), height)


def _inside_circle(shape: Circle, rows: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    down = (rows + 0.5 - shape.center[1])[:, None]
    across = (np.arange(width) + 0.5 - shape.center[0])[None]
    inside: NDArray[np.bool_] = np.hypot(down, across) < shape.radius
    return inside


def _inside_polygon(shape: Polygon, rows: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """By the even-odd rule."""
    # Each edge flips all that is right of it in the rows it crosses; even numbers cancel out.
    top, flips, points = int(rows[0]), np.zeros((len(rows), width + 1), np.uint8), shape.points
    for (x0, y0), (x1, y1) in zip(points, (*points[1:], points[0]), strict=True):
        (upper_x, upper), (lower_x, lower) = sorted(((x0, y0), (x1, y1)), key=lambda p: p[1])
        first, last = (_centers_above(y, top + len(rows)) for y in (upper, lower))
        if first >= last:
            continue
        crossed = np.arange(first, last)
        crossing = upper_x + (crossed + 0.5 - upper) * ((lower_x - upper_x) / (lower - upper))
        columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
        flips[crossed - top, columns] ^= 1
    inside: NDArray[np.bool_] = np.bitwise_xor.accumulate(flips, axis=1)[:, :width] > 0
    return inside


def unroll(runs: Runs, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Write run lengths out as a mask (H, W).

    Raises:
        Unusable: they do not add up to the pixels of `size`.
    """
    height, width = size
    if not all(0 <= one <= MAX_PIXELS for one in runs.counts):
        raise Unusable("has run lengths that are no numbers of pixels: export it again")
    total = sum(runs.counts)
    if total != height * width:
        raise Unusable(
            f"has run lengths over {total} pixels, but {width}x{height} are {height * width}: "
            "export it again"
        )
    marked = np.arange(len(runs.counts)) % 2 == 1
    flat: NDArray[np.bool_] = np.repeat(marked, runs.counts)
    mask: NDArray[np.bool_] = flat.reshape(width, height).T
    return mask


def expand(text: str) -> Runs:
    """Read compressed run lengths of the COCO format.

    Characters carry 5 bits each from chr(48) on, the lowest first; a sixth bit says that more
    follow, and the highest of the last group is the sign. From the fourth number on, what is
    stored is the difference to the number two places earlier.

    Raises:
        Unusable: the text is no such sequence.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise Unusable("has run lengths that cannot be read: export them as polygons")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise Unusable("has run lengths that end in the middle of a number: export them again")
    return Runs(tuple(counts))

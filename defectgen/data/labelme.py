"""Masks from LabelMe: one JSON file of outlines for each image."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from defectgen.data.shapes import Circle, Drawn, DrawnMask, Polygon, coordinates, polygon
from defectgen.data.sidecars import UnusableOf, read_sidecars, tell_orphans
from defectgen.data.sources import MAX_PIXELS, Unusable
from defectgen.data.survey import MAX_TEXT_BYTES, Survey, plain_name
from defectgen.files import read_text

MAX_SHAPES = 10_000  # of one image
#: Labels of what is no defect, by LabelMe's own convention.
RESERVED = ("__ignore__", "_background_")


def json_files(folder: Path) -> list[Path]:
    """List the JSON files of a folder by name."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() == ".json" and not path.name.startswith(".") and path.is_file()
    ]


def is_labelme(path: Path) -> bool:
    """Whether a file has what LabelMe writes."""
    try:
        content = json.loads(read_text(path, MAX_TEXT_BYTES).removeprefix("\ufeff"))
    except (OSError, ValueError, RecursionError):
        return False
    return _has_keys(content)


def read_labelme(survey: Survey, folder: Path, images: Sequence[Path]) -> Drawn:
    """Read the masks of images, and remember what is wrong.

    A file belongs to the image of its stem; the image that it names itself is never opened.

    Args:
        survey: Takes the problems.
        folder: Holds `<stem>.json` for each image; JSON files of other programs and stems may lie
            there.
        images: The images.

    Returns:
        Image -> the labels of its shapes, and its mask.
    """
    files = json_files(folder)
    found = read_sidecars(survey, files, images, ("LabelMe file", ".json"), _parse)
    tell_orphans(survey, filter(is_labelme, files), images)
    return found


def _parse(text: str, _: Path, name: str) -> tuple[frozenset[str], DrawnMask]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"is no JSON ({error}): save it again in LabelMe") from error
    if not _has_keys(content):
        raise Unusable("has no 'shapes' and 'imagePath', as LabelMe writes them: add a mask")
    shapes = content["shapes"]
    if not isinstance(shapes, list) or len(shapes) > MAX_SHAPES:
        raise Unusable(f"has 'shapes' that are no list of up to {MAX_SHAPES}: save it again")
    numbered = [(index, one) for index, one in enumerate(shapes) if _label(one) not in RESERVED]
    if not numbered:
        raise Unusable("has no shape: outline the defect, or drop the image")
    kinds = frozenset(_kind(one) for _, one in numbered)
    try:
        return kinds, DrawnMask(name, [_outline(*one) for one in numbered], _size(content))
    except Unusable as error:
        raise UnusableOf(str(error), kinds) from error


def _size(content: dict[str, Any]) -> tuple[int, int]:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if type(height) is not int or type(width) is not int or not 1 <= height * width <= MAX_PIXELS:
        raise Unusable("has no imageHeight and imageWidth of a picture: save it again in LabelMe")
    return height, width


def _has_keys(content: object) -> bool:
    return isinstance(content, dict) and {"shapes", "imagePath"} <= content.keys()


def _label(shape: Any) -> object:
    return shape.get("label") if isinstance(shape, dict) else None


def _kind(shape: Any) -> str:
    label = _label(shape)
    return plain_name(label, "defect") if isinstance(label, str) else "defect"


def _outline(index: int, shape: Any) -> Polygon | Circle:
    try:
        return _form(shape)
    except Unusable as error:
        raise Unusable(f"shape {index} {error}") from error


def _form(shape: Any) -> Polygon | Circle:
    if not isinstance(shape, dict):
        raise Unusable("is no record: save it again in LabelMe")
    points = shape.get("points")
    form = shape.get("shape_type", "polygon")  # which the first versions did not write
    if form not in ("polygon", "rectangle", "circle"):
        raise Unusable(
            f"is of the type {form!r:.40}: draw polygons, rectangles or circles, as others are "
            "not read"
        )
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 for point in points
    ):
        raise Unusable("has points that are no list of x and y: save it again in LabelMe")
    values = [value for point in points for value in point]
    if form == "polygon":
        return polygon(values)
    if len(points) != 2:
        raise Unusable(f"is a {form} of {len(points)} points: 2 are needed")
    left, top, right, bottom = coordinates(values)
    if form == "circle":  # its center, and a point on it
        return Circle((left, top), math.dist((left, top), (right, bottom)))
    return polygon([left, top, right, top, right, bottom, left, bottom])

"""Masks from LabelMe: one JSON file of outlines for each image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from defectgen.data.shapes import DrawnMask, Polygon, circle, coordinates, polygon
from defectgen.data.sources import Unusable
from defectgen.data.survey import MAX_TEXT_BYTES, Survey, plain_name
from defectgen.files import read_text

MAX_SHAPES = 10_000  # of one image

Drawn = dict[Path, tuple[frozenset[str], DrawnMask]]


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
    files = {path.stem: path for path in json_files(folder)}
    stems = {image.stem for image in images}
    found = {}
    for image in images:
        path = files.get(image.stem)
        if path is None:
            survey.error(image, f"has no LabelMe file: add {image.stem}.json", mask=True)
            continue
        text = survey.read(path, mask=True)
        if text is None:
            continue
        try:
            kinds, shapes, size = _parse(text)
        except Unusable as error:
            survey.error(path, str(error), mask=True)
            continue
        label = f"{survey.name(path)} ({image.name})"
        found[image] = kinds, DrawnMask(label, shapes, size)
    for stem, path in files.items():
        if stem not in stems and is_labelme(path):
            survey.error(path, "has labels of no image: add the image or remove it", mask=True)
    return found


def _parse(text: str) -> tuple[frozenset[str], list[Polygon], tuple[int, int]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"is no JSON ({error}): save it again in LabelMe") from error
    if not _has_keys(content):
        raise Unusable("has no 'shapes' and 'imagePath', as LabelMe writes them: add a mask")
    shapes = content["shapes"]
    if not isinstance(shapes, list) or len(shapes) > MAX_SHAPES:
        raise Unusable(f"has 'shapes' that are no list of up to {MAX_SHAPES}: save it again")
    if not shapes:
        raise Unusable("has no shape: outline the defect, or drop the image")
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if type(height) is not int or type(width) is not int:
        raise Unusable("has no imageHeight and imageWidth: save it again in LabelMe")
    outlines, kinds = [], set()
    for index, shape in enumerate(shapes):
        try:
            kind, outline = _outline(shape)
        except Unusable as error:
            raise Unusable(f"shape {index} {error}") from error
        outlines.append(outline)
        kinds.add(kind)
    return frozenset(kinds), outlines, (height, width)


def _has_keys(content: object) -> bool:
    return isinstance(content, dict) and {"shapes", "imagePath"} <= content.keys()


def _outline(shape: Any) -> tuple[str, Polygon]:
    if not isinstance(shape, dict):
        raise Unusable("is no record: save it again in LabelMe")
    label, points = shape.get("label"), shape.get("points")
    form = shape.get("shape_type", "polygon")  # which the first versions did not write
    if form not in ("polygon", "rectangle", "circle"):
        raise Unusable(
            f"is of the type {form!r:.40}: draw polygons, rectangles or circles, as others have "
            "no inside"
        )
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 for point in points
    ):
        raise Unusable("has points that are no list of x and y: save it again in LabelMe")
    values = [value for point in points for value in point]
    kind = plain_name(label, "defect") if isinstance(label, str) else "defect"
    if form == "polygon":
        return kind, polygon(values)
    if len(points) != 2:
        raise Unusable(f"is a {form} of {len(points)} points: 2 are needed")
    left, top, right, bottom = coordinates(values)
    if form == "circle":  # its center, and a point on it
        return kind, circle((left, top), (right, bottom))
    return kind, polygon([left, top, right, top, right, bottom, left, bottom])

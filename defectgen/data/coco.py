"""Masks from a COCO annotation file: polygons and run lengths."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from defectgen.data.shapes import Drawn, DrawnMask, Polygon, Runs, expand, polygon
from defectgen.data.sources import MAX_PIXELS, Unusable
from defectgen.data.stems import composed
from defectgen.data.survey import Survey, one_kind, plain_name

MAX_ANNOTATIONS = 1_000_000


def read_coco(survey: Survey, path: Path, images: Mapping[str, Path]) -> Drawn:
    """Read the masks of images, and remember what is wrong.

    Names in the file are looked up among `images`, and never joined to a path. Boxes are no
    masks. All annotations of an image make one mask.

    Args:
        survey: Takes the problems.
        path: The JSON file: `images`, `annotations`, `categories`.
        images: Defect images by their path below their folder, with forward slashes.

    Returns:
        Image -> the names of its categories, and its mask.
    """
    content = _load(survey, path)
    if content is None:
        return {}
    records, names = _records(survey, path, content, images), _categories(content)
    shapes: defaultdict[Any, list[Polygon | Runs]] = defaultdict(list)
    kinds = defaultdict(set)
    broken = defaultdict(list)
    for index, annotation in enumerate(content["annotations"]):
        identity = annotation.get("image_id")
        if not _plain(identity) or identity not in records:
            continue
        _, size = records[identity]
        try:
            shapes[identity] += _shapes(annotation.get("segmentation"), size)
        except Unusable as error:
            broken[identity].append(f"annotation {index} of {path.name} {error}")
        category = annotation.get("category_id")
        kinds[identity].add(names.get(category, "defect") if _plain(category) else "defect")
    found = {}
    for identity, (image, size) in records.items():
        if identity in broken:
            # Its categories are known, so that it does not hinder the other types.
            kind = survey.kind_of(image) or one_kind(kinds[identity]) or "defect"
            survey.kinds[image] = kind
            for text in broken[identity]:
                survey.error(image, text, mask=True)
            continue
        if not shapes[identity]:
            survey.error(image, f"has no annotation in {path.name}: add its outline", mask=True)
            continue
        label = f"{path.name} ({survey.name(image)})"
        found[image] = frozenset(kinds[identity]), DrawnMask(label, shapes[identity], size)
    known = {image for image, _ in records.values()}
    for image in images.values():
        if image not in known:
            survey.error(image, f"is not named in {path.name}: annotate it", mask=True)
    return found


def _load(survey: Survey, path: Path) -> dict[str, Any] | None:
    text = survey.read(path, mask=True)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        survey.error(path, f"is no JSON ({error}): export it again", mask=True)
        return None
    for key in ("images", "annotations"):
        records = content.get(key) if isinstance(content, dict) else None
        if (
            not isinstance(records, list)
            or len(records) > MAX_ANNOTATIONS
            or not all(isinstance(one, dict) for one in records)
        ):
            survey.error(path, f"has no list {key!r} of records: it is no COCO file", mask=True)
            return None
    return dict(content)


def _records(
    survey: Survey, path: Path, content: dict[str, Any], images: Mapping[str, Path]
) -> dict[Any, tuple[Path, tuple[int, int]]]:
    by_name = defaultdict(list)
    for below, image in images.items():
        for known_as in {composed(below), composed(image.name)}:
            by_name[known_as].append(image)
    annotated = {one["image_id"] for one in content["annotations"] if _plain(one.get("image_id"))}
    records: dict[Any, tuple[Path, tuple[int, int]]] = {}
    known = set()
    for index, record in enumerate(content["images"]):
        name, identity = record.get("file_name"), record.get("id")
        if not isinstance(name, str) or not _plain(identity):
            survey.error(path, f"image {index} has no id or no file_name: add both", mask=True)
            continue
        name = name.replace("\\", "/")
        found = images.get(name)
        for known_as in (composed(name), composed(name.rpartition("/")[2])):
            twins = by_name.get(known_as, ())
            found = found or (twins[0] if len(twins) == 1 else None)
        if found is None:
            # A file may annotate a whole data set, good images among them.
            if identity in annotated:
                text = f"is annotated in {path.name} and is none of the defect images, or several"
                survey.error(name, f"{text}: add it or remove its annotations")
            continue
        height, width = record.get("height"), record.get("width")
        whole = type(height) is int and type(width) is int
        if not whole or not 1 <= height * width <= MAX_PIXELS:
            survey.error(found, f"has no height and width in {path.name}: add both", mask=True)
            continue
        if identity in records or found in known:
            survey.error(found, f"is named twice in {path.name}: keep one record", mask=True)
            continue
        records[identity] = found, (height, width)
        known.add(found)
    return records


def _categories(content: dict[str, Any]) -> dict[Any, str]:
    listed = content.get("categories")
    records = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return {
        one["id"]: plain_name(one["name"], "defect")
        for one in records
        if _plain(one.get("id")) and isinstance(one.get("name"), str)
    }


def _shapes(segmentation: object, size: tuple[int, int]) -> list[Polygon | Runs]:
    if isinstance(segmentation, list) and segmentation:
        if not all(isinstance(part, list) for part in segmentation):
            raise Unusable("has a segmentation that is no list of outlines: export it again")
        return [polygon(part) for part in segmentation]
    if not isinstance(segmentation, dict):
        raise Unusable("has a box but no outline: draw polygons or masks, a box is none")
    if segmentation.get("size") != list(size):
        raise Unusable(
            f"has run lengths for {segmentation.get('size')}, but its image is {list(size)} high "
            "and wide: export it again"
        )
    return [_runs(segmentation.get("counts"))]


def _runs(counts: object) -> Runs:
    if isinstance(counts, str):
        return expand(counts)
    if isinstance(counts, Sequence) and all(type(one) is int and one >= 0 for one in counts):
        return Runs(tuple(counts))
    raise Unusable("has run lengths that are no list of whole numbers: export it again")


def _plain(identity: object) -> bool:
    # Lists cannot be looked up, and NaN never equals itself.
    return isinstance(identity, (int, str))

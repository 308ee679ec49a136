"""Where the defects of the images of a folder are: pictures of masks, or annotations."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from defectgen.data.coco import read_coco
from defectgen.data.labelme import is_labelme, json_files, read_labelme
from defectgen.data.shapes import Drawn
from defectgen.data.sources import pictures
from defectgen.data.stems import composed, match, split_beside
from defectgen.data.survey import Entry, Survey, one_kind, subfolders
from defectgen.data.yolo import class_names, label_files, read_yolo

GOOD = ("good", "normal", "ok")  # folders of good images, in lower case


@dataclass(frozen=True)
class _Group:
    """Images of one folder; `typed` if that folder is named for the type of the defect."""

    kind: str
    images: list[Path]
    typed: bool


def add_types(survey: Survey, place: Path, source: Path, kind: str) -> None:
    """Add the images of a folder and of its sub-folders, each of which is a type of defect.

    Args:
        survey: Takes entries and problems.
        place: The folder of the images.
        source: A folder of masks or of annotations, or a COCO file; `place` for those beside the
            images.
        kind: The type of images in `place` itself, where nothing else tells it.
    """
    # As in MVTec AD: good images beside the types of defects are those of the test.
    for path in subfolders(place):
        if path.name.lower() in GOOD:
            survey.add_good("test", pictures(path))
    groups = _groups(survey, place, source, kind)
    if groups:
        _add_groups(survey, groups, place, source)
    else:
        survey.error(place, "holds no image, and no sub-folder does: put the defect images there")


def add_pair(survey: Survey, images: Path, masks: Path, *, typed: bool = False) -> None:
    """Add the images of one folder, without those of sub-folders, and what tells their masks.

    Args:
        survey: Takes entries and problems.
        images: The folder; it has the name of the type, where nothing else tells that.
        masks: As `source` of `add_types`. Where it holds pictures, they are the masks.
        typed: Whether annotations have no say in the type.
    """
    kind = os.path.basename(os.path.abspath(images))
    if typed:
        survey.kinds |= {images: kind, masks: kind}
    group = _Group(kind, survey.files_in(images), typed)
    if not group.images:
        return
    if masks.is_dir() and masks.resolve() != images.resolve() and pictures(masks):
        _add(survey, kind, match(survey, group.images, survey.files_in(masks, mask=True)))
    else:
        _add_groups(survey, [group], images, masks)


def masks_beside(folder: Path) -> bool:
    """Whether masks of any kind lie among the images of a folder."""
    images, masks = split_beside(pictures(folder))
    return bool(masks or label_files(folder) or _of_labelme(folder, images))


def _add_groups(survey: Survey, groups: Sequence[_Group], place: Path, source: Path) -> None:
    if (annotations := _coco_file(source)) is not None:
        images = {
            image.relative_to(place).as_posix(): image for group in groups for image in group.images
        }
        _add_drawn(survey, groups, read_coco(survey, annotations, images))
    elif any(label_files(part) for part in (source, *subfolders(source))):
        _add_yolo(survey, groups, source)
    elif source.resolve() == place.resolve():
        _add_beside(survey, groups)
    elif _only_labelme(groups, source):
        _add_labels(survey, groups, source, partial(read_labelme, survey))
    else:
        _add_pictures(survey, groups, source)


def _groups(survey: Survey, place: Path, source: Path, kind: str) -> list[_Group]:
    groups = [_Group(kind, survey.pictures_in(place), False)]
    for path in subfolders(place):
        if path != source and path.name.lower() not in GOOD:
            groups.append(_Group(path.name, survey.pictures_in(path), True))
    groups = [group for group in groups if group.images]
    for group in groups:
        if group.typed:
            # Folders of masks have the names of types, too.
            survey.kinds |= {folder / group.kind: group.kind for folder in (place, source)}
    return groups


def _coco_file(source: Path) -> Path | None:
    if source.is_file():
        return source
    # A file of other notes may lie among the images.
    files = sorted(path for path in source.glob("*.json") if not path.name.startswith("."))
    alone = len(files) == 1 and not pictures(source) and not subfolders(source)
    return files[0] if alone and not is_labelme(files[0]) else None


def _of_labelme(folder: Path, images: Sequence[Path]) -> bool:
    # What is in the files is looked at later, and told.
    stems = {composed(image.stem) for image in images}
    return any(composed(path.stem) in stems for path in json_files(folder))


def _only_labelme(groups: Sequence[_Group], source: Path) -> bool:
    images = [image for group in groups for image in group.images]
    parts = (source, *subfolders(source))
    return any(_of_labelme(part, images) for part in parts) and not any(map(pictures, parts))


def _add(survey: Survey, kind: str, pairs: Sequence[tuple[Path, Path]]) -> None:
    survey.entries.extend(Entry("train", kind, image, mask) for image, mask in pairs)


def _add_beside(survey: Survey, groups: Sequence[_Group]) -> None:
    for group in groups:
        images, masks = split_beside(group.images)
        folder = group.images[0].parent
        if not masks and _of_labelme(folder, images):
            _add_drawn(survey, [group], read_labelme(survey, folder, images))
        else:
            _add(survey, group.kind, match(survey, images, masks))


def _add_pictures(survey: Survey, groups: Sequence[_Group], source: Path) -> None:
    flat = [group for group in groups if not (group.typed and (source / group.kind).is_dir())]
    for group in groups:
        if group not in flat:
            masks = survey.files_in(source / group.kind, mask=True)
            # An empty folder is one problem, not one for each image.
            _add(survey, group.kind, match(survey, group.images, masks) if masks else [])
    used = {group.kind for group in groups if group not in flat}
    for extra in subfolders(source):
        if extra.name not in used and extra.name.lower() not in GOOD:
            text = "is a folder of masks without a folder of images"
            survey.error(extra, text, mask=True, kind=extra.name)
    # Types that share one folder of masks are paired in one go, so that leftovers are seen.
    kinds = {image: group.kind for group in flat for image in group.images}
    masks = survey.files_in(source, mask=True) if flat else pictures(source)
    if masks:
        for pair in match(survey, list(kinds), masks):
            _add(survey, kinds[pair[0]], [pair])


def _add_yolo(survey: Survey, groups: Sequence[_Group], source: Path) -> None:
    names = class_names(survey, [source, source.parent, survey.folder])

    def read(folder: Path, images: Sequence[Path]) -> Drawn:
        return read_yolo(survey, folder, images, names)

    _add_labels(survey, groups, source, read)
    names.warn(survey)


def _add_labels(
    survey: Survey,
    groups: Sequence[_Group],
    source: Path,
    read: Callable[[Path, Sequence[Path]], Drawn],
) -> None:
    """Add what one file for each image tells, in the folder of its type or in one for all."""
    shared = [group for group in groups if not (group.typed and (source / group.kind).is_dir())]
    for group in groups:
        if group not in shared:
            _add_drawn(survey, [group], read(source / group.kind, group.images))
    if shared:
        images = [image for group in shared for image in group.images]
        _add_drawn(survey, shared, read(source, images))


def _add_drawn(
    survey: Survey,
    groups: Sequence[_Group],
    drawn: Drawn,
) -> None:
    for group in groups:
        for image in group.images:
            if image not in drawn:
                continue  # who read the annotations said why
            kinds, mask = drawn[image]
            kind = group.kind if group.typed else one_kind(kinds)
            survey.entries.append(Entry("train", kind, image, mask))

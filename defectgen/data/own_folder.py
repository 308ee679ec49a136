"""Photos of one's own: folders of good parts, of defects, and masks in the usual forms."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from defectgen.data.coco import read_coco
from defectgen.data.dataset import DefectData
from defectgen.data.deferred import Square
from defectgen.data.report import DataReport, inspect
from defectgen.data.shapes import DrawnMask
from defectgen.data.sources import pictures
from defectgen.data.stems import match, split_beside
from defectgen.data.survey import Entry, Survey, existing_folder, subfolders
from defectgen.data.yolo import class_names, label_files, read_yolo

GOOD = ("good", "normal", "ok")
TEST_GOOD = ("test_good", "good_test")
DEFECTS = ("defect", "defects", "defective", "bad", "ng", "anomaly", "anomalies", "anomalous")
MASK_FOLDERS = ("mask", "masks", "ground_truth", "labels", "annotations")
MASKS = (*MASK_FOLDERS, "annotations.json", "_annotations.coco.json")
TWINS, IMAGES = ("normals",), ("images",)  # as `sample` writes them, beside masks
COMBINED = "combined"  # the type of an image with defects of several types


class Folder(DefectData):
    """A data set of one's own.

    Good images lie in one folder. Defect images lie in another, directly or in one sub-folder for
    each type. Masks are pictures (`07.png`, `07_mask.png`, `mask_07.png`, also with -, "." or
    gt, label, seg), in a folder of their own, with the same sub-folders or without, or beside the
    images; or one COCO file; or a folder of YOLO segmentation labels. Without sub-folders, COCO
    and YOLO tell the type of each image: its category, or "combined" if it has several.

    Args:
        root: The folder that holds all.
        good: Folder of good images, below root or absolute. None looks for good, normal, ok,
            normals.
        defects: Folder of defect images. None looks for defect, defects, defective, bad, ng,
            anomaly, anomalies, anomalous; then for pairs of folders such as scratch and
            scratch_masks, each a type; then for pictures in images, as `sample` writes them.
        masks: Folder of masks or of labels, or a COCO file. None looks for mask, masks,
            ground_truth, labels, annotations, annotations.json, in root and among the defects;
            then for masks beside the images.
        test_good: Folder of good images kept for tests. None looks for test_good, good_test. A
            folder good among the types of defects holds more of them.
        square: What happens to oblong images: "pad" repeats their borders, "crop" takes the
            middle, None makes them an error.
        drop_bad: Leave out what cannot be used, with a warning, instead of raising.

    Raises:
        ConfigError: an argument is out of its range.
        ImageError: a folder is missing, or files cannot be used; all of them are listed.
        MaskError: the same, if they are all about masks.

    Example:
        >>> data = Folder("photos", defects="scratch", masks="scratch_masks")
        >>> backbone = Backbone().fit(data.train_good)
        >>> synthesizer = DefectSynthesizer(backbone).fit(*data.defects["scratch"])
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        good: str | os.PathLike[str] | None = None,
        defects: str | os.PathLike[str] | None = None,
        masks: str | os.PathLike[str] | None = None,
        test_good: str | os.PathLike[str] | None = None,
        square: Square = None,
        drop_bad: bool = False,
    ) -> None:
        survey = survey_folder(root, good=good, defects=defects, masks=masks, test_good=test_good)
        super().__init__(survey, square, drop_bad)

    @staticmethod
    def check(
        root: str | os.PathLike[str],
        *,
        good: str | os.PathLike[str] | None = None,
        defects: str | os.PathLike[str] | None = None,
        masks: str | os.PathLike[str] | None = None,
        test_good: str | os.PathLike[str] | None = None,
        square: Square = None,
    ) -> DataReport:
        """Return the report, whatever it says, instead of raising."""
        survey = survey_folder(root, good=good, defects=defects, masks=masks, test_good=test_good)
        return inspect(survey, square)[0]


@dataclass(frozen=True)
class _Group:
    """Images of one folder; `typed` if that folder is named for the type of the defect."""

    kind: str
    images: list[Path]
    typed: bool


def survey_folder(
    root: str | os.PathLike[str],
    *,
    good: str | os.PathLike[str] | None = None,
    defects: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    test_good: str | os.PathLike[str] | None = None,
) -> Survey:
    """List the entries; arguments as those of `Folder`."""
    folder = existing_folder(root, "root")
    survey = Survey("folder", folder)
    train = _find(folder, good, (*GOOD, *TWINS))
    if train is None:
        survey.error(folder, _absent("good images", (*GOOD, *TWINS), "good"))
    else:
        survey.add_good("train", survey.files_in(train))
    test = _find(folder, test_good, TEST_GOOD)
    if test is not None:
        survey.add_good("test", survey.files_in(test))
    place = _find(folder, defects, DEFECTS)
    pairs = _paired_folders(folder) if place is None and masks is None else []
    for images_in, masks_in in pairs:
        found = match(survey, survey.files_in(images_in), survey.files_in(masks_in, mask=True))
        _add(survey, images_in.name, found)
    if pairs:
        return survey
    kind = place.name if place else DEFECTS[0]
    place = place or _flat(_find(folder, None, IMAGES), (train, test))
    if place is None or not place.is_dir():
        names = (*DEFECTS, *IMAGES)
        survey.error(place or folder, _absent("defect images", names, "defects"))
        return survey
    source = _find(folder, masks, MASKS) or _find(place, None, MASKS) or place
    if not source.exists():
        survey.error(source, "is missing: check the path of the masks", mask=True)
        return survey
    # As in MVTec AD: good images beside the types of defects are those of the test.
    for path in subfolders(place):
        if path.name.lower() in GOOD:
            survey.add_good("test", pictures(path))
    groups = _groups(survey, place, source, kind)
    if not groups:
        survey.error(place, "holds no image, and no sub-folder does: put the defect images there")
    elif (annotations := _coco_file(source)) is not None:
        images = {
            image.relative_to(place).as_posix(): image for group in groups for image in group.images
        }
        _add_drawn(survey, groups, read_coco(survey, annotations, images))
    elif any(label_files(part) for part in (source, *subfolders(source))):
        _add_yolo(survey, groups, source)
    elif source == place:
        _add_beside(survey, groups)
    else:
        _add_pictures(survey, groups, source)
    return survey


def _find(folder: Path, given: str | os.PathLike[str] | None, names: Sequence[str]) -> Path | None:
    if given is not None:
        return folder / Path(given).expanduser()
    there = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True)}
    return next((there[name] for name in names if name in there), None)


def _flat(place: Path | None, goods: Sequence[Path | None]) -> Path | None:
    """The folder if it holds pictures itself, and no good ones: others have splits or types."""
    if place is None or not place.is_dir() or not pictures(place):
        return None
    taken = any(good is not None and good.resolve() == place.resolve() for good in goods)
    return None if taken else place


def _paired_folders(folder: Path) -> list[tuple[Path, Path]]:
    there = {path.name: path for path in subfolders(folder)}
    return [
        (path, there[name + ending])
        for name, path in there.items()
        for ending in ("_masks", "_mask")
        if name + ending in there
    ]


def _absent(what: str, names: Sequence[str], argument: str) -> str:
    return f"holds no folder of {what}: call it {', '.join(names)}, or pass {argument}="


def _groups(survey: Survey, place: Path, source: Path, kind: str) -> list[_Group]:
    groups = [_Group(kind, survey.pictures_in(place), False)]
    groups += [
        _Group(path.name, survey.pictures_in(path), True)
        for path in subfolders(place)
        if path != source and path.name.lower() not in GOOD
    ]
    return [group for group in groups if group.images]


def _coco_file(source: Path) -> Path | None:
    if source.is_file():
        return source
    # A file of other notes may lie among the images.
    files = sorted(path for path in source.glob("*.json") if not path.name.startswith("."))
    alone = len(files) == 1 and not pictures(source) and not subfolders(source)
    return files[0] if alone else None


def _add(survey: Survey, kind: str, pairs: Sequence[tuple[Path, Path]]) -> None:
    survey.entries.extend(Entry("train", kind, image, mask) for image, mask in pairs)


def _add_beside(survey: Survey, groups: Sequence[_Group]) -> None:
    for group in groups:
        images, masks = split_beside(group.images)
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
            survey.error(extra, "is a folder of masks without a folder of images", mask=True)
    # Types that share one folder of masks are paired in one go, so that leftovers are seen.
    kinds = {image: group.kind for group in flat for image in group.images}
    masks = survey.files_in(source, mask=True) if flat else pictures(source)
    if masks:
        for pair in match(survey, list(kinds), masks):
            _add(survey, kinds[pair[0]], [pair])


def _add_yolo(survey: Survey, groups: Sequence[_Group], source: Path) -> None:
    names = class_names(survey, [source, source.parent, survey.folder])
    shared = [group for group in groups if not (group.typed and (source / group.kind).is_dir())]
    for group in groups:
        if group not in shared:
            found = read_yolo(survey, source / group.kind, group.images, names)
            _add_drawn(survey, [group], found)
    if shared:
        images = [image for group in shared for image in group.images]
        _add_drawn(survey, shared, read_yolo(survey, source, images, names))


def _add_drawn(
    survey: Survey,
    groups: Sequence[_Group],
    drawn: Mapping[Path, tuple[frozenset[str], DrawnMask]],
) -> None:
    for group in groups:
        for image in group.images:
            if image not in drawn:
                continue  # read_coco and read_yolo said why
            kinds, mask = drawn[image]
            written = next(iter(kinds)) if len(kinds) == 1 else COMBINED
            survey.entries.append(
                Entry("train", group.kind if group.typed else written, image, mask)
            )

"""Photos of one's own: folders of good parts, of defects, and masks in the usual forms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from defectgen.data.dataset import DefectData
from defectgen.data.deferred import Square
from defectgen.data.mask_sources import GOOD, add_pair, add_types
from defectgen.data.report import DataReport, inspect
from defectgen.data.sources import pictures
from defectgen.data.survey import Survey, Want, existing_folder, subfolders

TEST_GOOD = ("test_good", "good_test")
DEFECTS = ("defect", "defects", "defective", "bad", "ng", "anomaly", "anomalies", "anomalous")
MASK_FOLDERS = ("mask", "masks", "ground_truth", "labels", "annotations")
MASKS = (*MASK_FOLDERS, "annotations.json", "_annotations.coco.json")
TWINS, IMAGES = ("normals",), ("images",)  # as `sample` writes them, beside masks


class Folder(DefectData):
    """A data set of one's own.

    Good images lie in one folder. Defect images lie in another, directly or in one sub-folder for
    each type. Masks are pictures (`07.png`, `07_mask.png`, `mask_07.png`, also with -, "." or
    gt, label, seg), in a folder of their own, with the same sub-folders or without, or beside the
    images; or one COCO file; or a folder of YOLO segmentation labels; or LabelMe files, in a
    folder of their own or beside the images. Without sub-folders, these tell the type of each
    image: its category, or "combined" if it has several.

    Args:
        root: The folder that holds all.
        good: Folder of good images, below root or absolute. None looks for good, normal, ok,
            normals.
        defects: Folder of defect images. None looks for defect, defects, defective, bad, ng,
            anomaly, anomalies, anomalous; then for pairs of folders such as scratch and
            scratch_masks, each a type; then for pictures in images, as `sample` writes them.
        masks: Folder of masks or of annotations, or a COCO file. None looks for mask, masks,
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


def survey_folder(
    root: str | os.PathLike[str],
    *,
    good: str | os.PathLike[str] | None = None,
    defects: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    test_good: str | os.PathLike[str] | None = None,
    want: Want = "all",
) -> Survey:
    """List the entries, or those of them that are wanted; other arguments as those of `Folder`."""
    folder = existing_folder(root, "root")
    survey = Survey("folder", folder)
    train = _find(folder, good, (*GOOD, *TWINS))
    test = _find(folder, test_good, TEST_GOOD)
    if train is None and want != "defects":
        survey.error(folder, _absent("good images", (*GOOD, *TWINS), "good"))
    if train is not None and want != "defects":
        survey.add_good("train", survey.files_in(train))
    if test is not None and want == "all":
        survey.add_good("test", survey.files_in(test))
    if want != "good":
        place = _find(folder, defects, DEFECTS)
        pairs = _paired_folders(folder) if place is None and masks is None else []
        for images, masks_of_them in pairs:
            add_pair(survey, images, masks_of_them, typed=True)
        if not pairs:
            _add_defects(survey, place, masks, (train, test))
    return survey


def survey_pairs(images: Path, masks: Path) -> Survey:
    """List the images of one folder, and what a folder or a file says of their defects.

    Sub-folders are types of defects only where the folder holds no picture itself.
    """
    together = images.absolute().parent == masks.absolute().parent
    survey = Survey("folder", images.parent if together else images)
    if pictures(images):
        add_pair(survey, images, masks)
    else:
        add_types(survey, images, masks, os.path.basename(os.path.abspath(images)))
    return survey


def holds_good(folder: Path) -> bool:
    """Whether a folder has, by its name, a sub-folder of good images."""
    return _find(folder, None, (*GOOD, *TWINS)) is not None


def holds_defects(folder: Path) -> bool:
    """Whether a folder has, by their names, sub-folders of defect images."""
    if _find(folder, None, DEFECTS) is not None or _paired_folders(folder):
        return True
    flat = _flat(_find(folder, None, IMAGES), ())
    return flat is not None and _find(folder, None, MASKS) is not None


def masks_within(folder: Path) -> Path:
    """The folder or file of masks in a folder of images, or that folder, for masks beside them."""
    return _find(folder, None, MASKS) or folder


def _add_defects(
    survey: Survey,
    place: Path | None,
    masks: str | os.PathLike[str] | None,
    goods: Sequence[Path | None],
) -> None:
    folder = survey.folder
    kind = place.name if place else DEFECTS[0]
    place = place or _flat(_find(folder, None, IMAGES), goods)
    if place is None or not place.is_dir():
        names = (*DEFECTS, *IMAGES)
        survey.error(place or folder, _absent("defect images", names, "defects"))
        return
    source = _find(folder, masks, MASKS) or masks_within(place)
    if not source.exists():
        survey.error(source, "is missing: check the path of the masks", mask=True)
        return
    add_types(survey, place, source, kind)


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

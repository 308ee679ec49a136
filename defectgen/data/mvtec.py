"""MVTec AD, and every data set in its layout."""

from __future__ import annotations

import os
from pathlib import Path

from defectgen.data.dataset import DefectData
from defectgen.data.deferred import AnyClass, Square
from defectgen.data.report import DataReport, inspect
from defectgen.data.sources import pictures
from defectgen.data.stems import match
from defectgen.data.survey import Entry, Survey, Want, category_folder, subfolders

GOOD = "good"


class MVTecAD(DefectData):
    """One category of MVTec AD, as its owners distribute it.

    The layout: `train/good`, `test/good`, `test/<type>`, and `ground_truth/<type>` with masks
    named as their image with `_mask` behind. A mask of the same name as its image does as well.

    Args:
        root: The folder of all categories.
        category: The name of the category, such as "bottle".
        square: What happens to oblong images: "pad" repeats their borders, "crop" takes the
            middle, None makes them an error. All of MVTec AD is square.
        drop_bad: Leave out what cannot be used, with a warning, instead of raising.

    Raises:
        ConfigError: an argument is out of its range.
        ImageError: the folder is missing, or files cannot be used; all of them are listed.
        MaskError: the same, if they are all about masks.

    Example:
        >>> data = MVTecAD("mvtec", "bottle")
        >>> backbone = Backbone().fit(data.train_good)
        >>> synthesizer = DefectSynthesizer(backbone).fit(*data.defects["broken_large"])
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        category: str,
        *,
        square: Square = None,
        drop_bad: bool = False,
    ) -> None:
        super().__init__(survey_mvtec(category_folder(root, category)), square, drop_bad)

    @staticmethod
    def check(root: str | os.PathLike[str], category: str, *, square: Square = None) -> DataReport:
        """Return the report, whatever it says, instead of raising."""
        return inspect(survey_mvtec(category_folder(root, category)), square)[0]


def is_mvtec(folder: Path) -> bool:
    """Whether a folder is one category in this layout."""
    # One of them may be what is missing.
    places = (folder / "train" / GOOD, folder / "test", folder / "ground_truth")
    return sum(place.is_dir() for place in places) >= 2


def survey_mvtec(
    folder: Path, *, layout: str = "mvtec", any_class: bool = False, want: Want = "all"
) -> Survey:
    """List the entries of one category.

    Args:
        folder: The folder of the category.
        layout: What the survey calls it.
        any_class: Masks may have several values, and whatever is not 0 is the defect.
        want: What is listed, and whose problems are.
    """
    survey = Survey(layout, folder)
    if want != "defects":
        survey.add_good("train", survey.files_in(folder / "train" / GOOD))
    if want == "good":
        return survey
    test, truth = folder / "test", folder / "ground_truth"
    kinds = [path.name for path in subfolders(test) if path.name != GOOD]
    # MVTec AD always has it; other sets in this layout may have no good test images.
    if want == "all" and (test / GOOD).is_dir():
        survey.add_good("test", pictures(test / GOOD))
    if not kinds:
        survey.error(test, "holds no folder of defects: one for each type belongs there")
    for kind in kinds:
        survey.kinds |= {test / kind: kind, truth / kind: kind}
        images = survey.files_in(test / kind)
        masks = survey.files_in(truth / kind, mask=True)
        if not masks:
            continue  # one problem instead of one for each image
        survey.entries.extend(
            Entry("test", kind, image, AnyClass(mask) if any_class else mask)
            for image, mask in match(survey, images, masks)
        )
    for extra in subfolders(truth):
        # Some copies carry an empty folder for the good images.
        if extra.name not in kinds and extra.name != GOOD:
            text = "is a folder of masks without a folder of images"
            survey.error(extra, text, mask=True, kind=extra.name)
    return survey

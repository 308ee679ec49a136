"""EXIF says how a photo has to be turned: whether its mask is turned like it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags

from defectgen.data.sources import Deferred, Unusable, Value, open_lazily, read_size

#: From this one on orientations of EXIF exchange width and height.
_QUARTER = 5
#: Remark on masks that EXIF turns otherwise than their images, or not at all.
TURNED = "are not turned by EXIF as the photo is: does the mask lie on the defect as one sees it?"


def turned_apart(image: Value, mask: Value) -> bool:
    """Whether EXIF turns an image otherwise than its mask; of quarter turns oblong ones tell."""
    of_image, of_mask = _orientation(image), _orientation(mask)
    if of_image == of_mask:
        return False
    size = read_size(image)
    quarter = (of_image >= _QUARTER) != (of_mask >= _QUARTER)
    # Then raw sizes differ, and turned ones fit: the mask was drawn on the photo as it is seen.
    return size is None or size[0] == size[1] or not quarter


def _orientation(value: Value) -> int:
    """How a picture has to be turned to be upright, as EXIF numbers it; 1 if nothing says so."""
    while isinstance(value, Deferred):  # the file it is made from
        found = getattr(value, "source", getattr(value, "path", None))
        if found is None:
            return 1
        value = found
    if isinstance(value, np.ndarray):
        return 1
    try:
        image = open_lazily(value)
    except Unusable:
        return 1  # open_picture() will name the reason.
    try:
        found = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - as in open_picture(); a broken tag turns nothing
        return 1
    finally:
        if isinstance(value, Path):
            image.close()
    return found if 1 < found <= 8 else 1

"""What users hand over, as a list of named items, and safe decoding of one picture file."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from defectgen.errors import DataWarning, ImageError
from defectgen.messages import warn


class Deferred(ABC):
    """A picture that is made when it is read and not kept: drawn from polygons, or cropped.

    Attributes:
        name: the name of the file it is made from.
    """

    name: str

    @abstractmethod
    def open(self) -> Image.Image:
        """Make the picture.

        Raises:
            Unusable: what it is made from cannot be used.
        """

    @abstractmethod
    def size(self) -> tuple[int, int] | None:
        """Return (height, width) without making the picture, or None if that cannot be told."""


Array: TypeAlias = NDArray[Any]
Picture: TypeAlias = str | os.PathLike[str] | Image.Image | Array | Deferred
# A folder, a sequence of pictures, or one NCHW tensor or array.
ImageSource: TypeAlias = str | os.PathLike[str] | Sequence[Picture] | Tensor | Array
Value: TypeAlias = Path | Image.Image | Array | Deferred

SUFFIXES = ("png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp")
# Only these decoders of PIL are ever tried: fewer parsers meet hostile bytes.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000
MAX_BYTES = 256_000_000
SHOWN = 10  # bad files named in one error; the rest is counted


class Unusable(Exception):
    """Why one item cannot be used; the funnel collects these into one error for the user."""


@dataclass(frozen=True)
class Item:
    """One picture as it came: its short name, how an error names it, and the thing itself."""

    name: str
    label: str
    value: Value


def pictures(folder: Path) -> list[Path]:
    """List the picture files of a folder by name; hidden files and subfolders are left out."""
    return [
        path
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
        if path.suffix[1:].lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def list_files(folder: str | os.PathLike[str], argument: str) -> list[Path]:
    """List the picture files of a folder by name; hidden files and subfolders are left out.

    Raises:
        ImageError: there is no such folder, or it holds no picture file.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        advice = "pass a list with the path in it" if root.exists() else "check the path"
        raise ImageError(
            f"{argument}: a single path must name a folder; got {str(root)!r}, which is {what}; "
            f"{advice}"
        )
    files = pictures(root)
    if not files:
        raise ImageError(
            f"{argument}: the folder must hold files ending in {', '.join(SUFFIXES)}; got none in "
            f"{str(root)!r}; pass the folder that holds the files themselves, as subfolders are "
            "not searched"
        )
    return files


def list_items(source: object, argument: str) -> list[Item]:
    """Name every picture of a folder or of a sequence; nothing is decoded yet.

    Raises:
        ImageError: the source is neither, is empty, or holds something that is no picture.
    """
    if isinstance(source, (str, os.PathLike)):
        files = list_files(source, argument)
        return [Item(path.name, path.name, path) for path in files]
    if isinstance(source, (Mapping, bytes, Image.Image)) or not isinstance(source, Sequence):
        single = isinstance(source, Image.Image)
        advice = "put it into a list" if single else "turn it into one of these"
        raise ImageError(
            f"{argument}: must be a folder, a list of paths, PIL images or HWC arrays, or one "
            f"NCHW tensor; got {type(source).__name__}; {advice}"
        )
    if len(source) == 0:
        raise ImageError(f"{argument}: must hold at least one image; got none; pass some")
    items, problems = [], {}
    for index, entry in enumerate(source):
        label = f"[{index}]"
        if isinstance(entry, (str, os.PathLike)):
            path = Path(entry).expanduser()
            items.append(Item(path.name, str(path), path))
        elif isinstance(entry, (Image.Image, np.ndarray)):
            items.append(Item(f"{index:04d}", label, entry))
        elif isinstance(entry, Deferred):
            items.append(Item(entry.name, str(entry), entry))
        elif isinstance(entry, Tensor):
            problems[label] = "is a tensor in a list: pass one NCHW tensor, see torch.stack"
        else:
            problems[label] = f"is {type(entry).__name__}, not a path, a PIL image or an array"
    if problems:
        raise ImageError(problem_text(argument, problems, len(source)))
    return items


def problem_text(argument: str, problems: Mapping[str, str], total: int, shown: int = SHOWN) -> str:
    """Put all bad items of an argument (label -> reason) into one message."""
    lines = [f"  {label}: {reason}" for label, reason in list(problems.items())[:shown]]
    if len(problems) > shown:
        lines.append(f"  ... and {len(problems) - shown} more")
    head = f"{argument}: all must be usable; got {len(problems)} bad of {total}; repair or drop"
    return "\n".join([f"{head}:", *lines])


@dataclass
class Findings:
    """What the funnel found out about the items of one argument, to be told in one go."""

    argument: str
    total: int
    problems: dict[str, str] = field(default_factory=dict)  # label -> why it is unusable
    notes: dict[str, list[str]] = field(default_factory=dict)  # remark -> labels

    def note(self, label: str, remarks: Iterable[str]) -> None:
        """Remember remarks on a usable item."""
        for remark in remarks:
            self.notes.setdefault(remark, []).append(label)

    def warn(self) -> None:
        """Give one `DataWarning` for each remark, not one for each file."""
        for remark, labels in self.notes.items():
            some = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
            text = f"{self.argument}: {len(labels)} of {self.total} ({some}) {remark}"
            warn(text, DataWarning)


def open_picture(value: Value) -> Image.Image:
    """Decode one picture, upright after its EXIF orientation, in the mode in which it came.

    Arrays are (H, W) or (H, W, 1, 3 or 4) uint8.

    Raises:
        Unusable: the file is missing, too large, not a picture, broken, or has several frames;
            or the array has another shape or dtype.
    """
    if isinstance(value, np.ndarray):
        return _from_array(value)
    if isinstance(value, Deferred):
        return value.open()
    image = open_lazily(value)
    try:
        frames = getattr(image, "n_frames", 1)
        # Phones write a JPEG with a preview behind the picture (MPO): the first one is meant.
        if frames > 1 and image.format != "MPO":
            raise Unusable(f"holds {frames} pages or frames: save the wanted one by itself")
        image.load()
        return ImageOps.exif_transpose(image)  # always a copy
    except Unusable:
        raise
    except Exception as error:  # On damaged bytes the decoders of PIL raise nearly anything.
        raise Unusable(f"cannot be decoded, it is truncated or damaged ({error})") from error
    finally:
        if isinstance(value, Path):
            image.close()


def read_size(value: Value) -> tuple[int, int] | None:
    """Return (height, width) from the header alone, or None if that cannot be read."""
    if isinstance(value, np.ndarray):
        return (value.shape[0], value.shape[1]) if value.ndim >= 2 else None
    if isinstance(value, Deferred):
        return value.size()
    try:
        image = open_lazily(value)
    except Unusable:
        return None  # open_picture() will name the reason.
    size = (image.height, image.width)
    if isinstance(value, Path):
        image.close()
    return size


def _from_array(array: Array) -> Image.Image:
    if array.dtype != np.uint8:
        hint = ": divide 16-bit values by 257" if array.dtype == np.uint16 else ""
        raise Unusable(f"is an array of {array.dtype}: convert it to uint8 from 0 to 255{hint}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise Unusable(f"is an array of shape {array.shape}: it must be HW or HWC, see transpose")
    _check_pixels(array.shape[1], array.shape[0])
    return Image.fromarray(np.ascontiguousarray(array))


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Unusable(
            f"is {width}x{height}, more than {MAX_PIXELS // 10**6} megapixels: cut it into windows"
        )
    if width * height == 0:
        raise Unusable(f"is {width}x{height}, without any pixel: remove it")


def open_lazily(value: Path | Image.Image) -> Image.Image:
    """Read the header of a picture, or refuse it as `open_picture` does; pixels come later."""
    if isinstance(value, Image.Image):
        _check_pixels(value.width, value.height)
        return value
    if not value.is_file():
        # A pipe or a device would hang or never end.
        raise Unusable("is not a file" if value.exists() else "does not exist: check the path")
    try:
        if value.stat().st_size > MAX_BYTES:
            raise Unusable(f"is larger than {MAX_BYTES // 10**6} MB: save it compressed or smaller")
        with warnings.catch_warnings():
            # PIL warns from 89 megapixels on; that size is refused below anyhow.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(value, formats=FORMATS)
    except Unusable:
        raise
    except Image.DecompressionBombError as error:
        limit = MAX_PIXELS // 10**6
        raise Unusable(f"has more than {limit} megapixels: cut it into windows") from error
    except Exception as error:  # As in open_picture().
        known = ", ".join(FORMATS)
        raise Unusable(f"cannot be read as {known}: it is of another kind or damaged") from error
    try:
        _check_pixels(image.width, image.height)
    except Unusable:
        image.close()
        raise
    return image

"""Windows of large photos, cut at full size: a defect of few pixels keeps them all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image

from defectgen import __version__
from defectgen.checks import check_range, check_resolution
from defectgen.data.deferred import as_picture
from defectgen.data.layouts import defect_pairs, good_images
from defectgen.data.masks import BoolArray, decode_mask
from defectgen.data.pictures import decode_oblong
from defectgen.data.sources import SHOWN, Unusable, Value, read_size
from defectgen.data.survey import printable
from defectgen.errors import DataWarning, DefectGenError, ImageError, MaskError
from defectgen.files import atomic_file
from defectgen.messages import warn
from defectgen.records import Record
from defectgen.rng import generator
from defectgen.windows_places import defect_places
from defectgen.writer import check_empty

#: Where each window lay, a line each; written last: a folder with this file is complete.
WINDOWS_NAME = "windows.jsonl"
#: Less than this share of a mask in no window is no reason to look again.
SLIVER = 0.01


@dataclass(frozen=True, kw_only=True)
class Window(Record):
    """Where a window lay.

    Attributes:
        window: name of its picture.
        photo: path of the photo below the folder of all, with forward slashes.
        left, top, side: in pixels of the photo.
        width, height: of the photo.
        library_version: that cut it.
    """

    window: str
    photo: str
    left: int
    top: int
    side: int
    width: int
    height: int
    library_version: str = __version__


#: A window, its photo, and the mask of that.
Cut: TypeAlias = tuple[Window, Image.Image, BoolArray | None]


def cut_good(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    side: int,
    count: int = 4,
    seed: int = 0,
    layout: str = "auto",
    category: str | None = None,
    split: str | None = None,
    drop_bad: bool = False,
) -> int:
    """Cut windows of good photos at random places, for `Backbone.fit` and ``good_images``.

    Args:
        path: As for `train-backbone`: a folder of photos, or a data set; photos may be oblong.
        out: New or empty folder: pictures, and ``windows.jsonl`` with their places.
        side: Of a window in pixels, a power of two from 32 to 1024: the backbone's resolution.
        count: Windows of each photo; fewer where it has fewer places.
        seed: Of the places, with the path of the photo below `path`.
        layout: As in `data check`, like the next two.
        category: Likewise.
        split: Likewise.
        drop_bad: Leave out files that cannot be used, or are smaller than a window, and say so.

    Returns:
        The number of windows.

    Raises:
        ConfigError: an argument is out of its range, or ``out`` has content.
        ImageError: files cannot be used, or are smaller than a window; all of them are listed.
        OSError: the file system refuses.

    Warns:
        DataWarning: what is wrong with photos: `fit` would not see it in the windows.
    """
    _check(side, count)
    check_range("seed", seed, low=0, integer=True)
    with new_folder(out) as root:
        photos = good_images(
            path, layout=layout, category=category, split=split, drop_bad=drop_bad, whole=True
        )
        large = _large_enough(photos, side, drop_bad)

        def windows() -> Iterator[Cut]:
            for photo in (photos[k] for k in large):
                picture, name = read_picture(photo, "path"), _below(photo, path)
                source = generator(seed, "window", name)
                for place in _random_places(picture.size, side, count, source):
                    yield _window(name, picture, place, side), picture, None

        return _write(root, windows())


def cut_defects(
    path: str | os.PathLike[str],
    masks: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    side: int,
    count: int = 4,
    defect: str | None = None,
    layout: str = "auto",
    category: str | None = None,
    split: str | None = None,
    drop_bad: bool = False,
) -> int:
    """Cut windows around the defects of photos, for `DefectSynthesizer.fit`.

    Each window of a photo shows as much as any can of what those before it do not. A mask is cut
    with its photo, so it may hold several defects.

    Args:
        path: As for `fit`: a folder of photos, or a data set; photos may be oblong.
        masks: As for `fit`; None if `path` tells them.
        out: New or empty folder: ``images``, ``masks``, and ``windows.jsonl``.
        side: Of a window in pixels, a power of two from 32 to 1024: the backbone's resolution.
        count: At most so many windows of each photo.
        defect: The type, where there are several.
        layout: As in `data check`, like the next two.
        category: Likewise.
        split: Likewise.
        drop_bad: As in `cut_good`.

    Returns:
        The number of windows.

    Raises:
        ConfigError: an argument is out of its range, or ``out`` has content.
        ImageError: files cannot be used, or are smaller than a window; all of them are listed.
        MaskError: the same, if they are all about masks.
        OSError: the file system refuses.

    Warns:
        DataWarning: as `cut_good`; or part of the defects is in no window.
    """
    _check(side, count)
    left_out, full = list[str](), False
    options = {"layout": layout, "category": category, "split": split, "drop_bad": drop_bad}
    with new_folder(out) as root:
        pairs = defect_pairs(path, masks, defect=defect, whole=True, **options)  # type: ignore[arg-type]
        large = _large_enough(pairs.images, side, drop_bad)

        def windows() -> Iterator[Cut]:
            nonlocal full
            for photo, truth in ((pairs.images[k], pairs.masks[k]) for k in large):
                picture, mask = read_picture(photo, "path"), _read_mask(truth)
                places, rest = defect_places(mask, side, count), mask.copy()
                for left, top in places:
                    rest[top : top + side, left : left + side] = False
                    yield _window(_below(photo, path), picture, (left, top), side), picture, mask
                if (share := rest.sum() / mask.sum()) >= SLIVER:
                    left_out.append(f"{printable(_name(photo))} {share:.0%}")
                    full |= len(places) == count

        number = _write(root, windows())
    if left_out:
        _tell(left_out, len(large), full)
    return number


def _tell(photos: list[str], total: int, full: bool) -> None:
    some = ", ".join(photos[:3]) + (", ..." if len(photos) > 3 else "")
    warn(
        f"count: windows show all that is marked; got part of it in none, for {len(photos)} of "
        f"{total} photos ({some}); raise {'count or ' * full}side, or leave it so",
        DataWarning,
    )


@contextmanager
def new_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A new or empty folder; if what is put there proves wrong, it is empty again.

    Raises:
        ConfigError: it has content.
    """
    root = Path(out)
    check_empty(root, "out")
    try:
        yield root
    except DefectGenError:
        for entry in root.iterdir() if root.is_dir() else ():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        raise


def read_picture(value: Value, name: str) -> Image.Image:
    """A whole photo, of mode L or RGB.

    Raises:
        ImageError: it cannot be used; ``name`` is the argument that it came from.
    """
    try:
        return decode_oblong(value)[0]
    except Unusable as error:
        raise ImageError(f"{name}: readable pictures; got {str(value)!r}, which {error}") from error


def _read_mask(value: Value) -> BoolArray:
    try:
        return decode_mask(value)[0]
    except Unusable as error:
        raise MaskError(f"masks: readable masks; got {str(value)!r}, which {error}") from error


def _random_places(
    size: tuple[int, int], side: int, count: int, source: torch.Generator
) -> list[tuple[int, int]]:
    """Left and top of windows, no two the same."""
    columns, rows = (length - side + 1 for length in size)
    found = dict[tuple[int, int], None]()
    while len(found) < min(count, columns * rows):
        left, top = (int(torch.randint(n, (), generator=source)) for n in (columns, rows))
        found[left, top] = None
    return list(found)


def _window(photo: str, picture: Image.Image, place: tuple[int, int], side: int) -> Window:
    (left, top), (width, height) = place, picture.size
    return Window(window="", photo=photo, left=left, top=top, side=side, width=width, height=height)


def _write(root: Path, windows: Iterable[Cut]) -> int:
    """Pictures as they come, with masks in two folders, and last their places."""
    root.mkdir(parents=True, exist_ok=True)
    number = 0
    with (
        atomic_file(root / WINDOWS_NAME) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as lines,
    ):
        for window, picture, mask in windows:
            name, home = f"{number:06d}.png", root if mask is None else root / "images"
            box = window.left, window.top, window.left + window.side, window.top + window.side
            home.mkdir(exist_ok=True)
            picture.crop(box).save(home / name)
            if mask is not None:
                (root / "masks").mkdir(exist_ok=True)
                as_picture(mask).crop(box).save(root / "masks" / name)
            lines.write(json.dumps({**window.to_dict(), "window": name}) + "\n")
            number += 1
    return number


def _check(side: int, count: int) -> None:
    check_resolution(side, "side")
    check_range("count", count, low=1, integer=True)


def _name(photo: Value) -> str:
    return Path(str(photo)).name


def _below(photo: Value, path: str | os.PathLike[str]) -> str:
    """The path of a photo below the folder that was given."""
    whole, root = Path(os.path.abspath(str(photo))), Path(os.path.abspath(Path(path).expanduser()))
    return whole.relative_to(root).as_posix()


def _large_enough(photos: list[Value], side: int, drop_bad: bool) -> list[int]:
    """Which photos are as large as a window, of some that are usable."""
    sizes = [read_size(photo) or (0, 0) for photo in photos]
    small = [
        f"{_name(p)} is {s[1]}x{s[0]}" for p, s in zip(photos, sizes, strict=True) if min(s) < side
    ]
    if small:
        more = f", and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
        text = (
            f"side: at most the shorter side of every photo; got {side}, and "
            f"{printable(', '.join(small[:SHOWN]))}{more}; "
        )
        if not drop_bad or len(small) == len(photos):
            raise ImageError(f"{text}choose a smaller side, or pass drop_bad=True")
        warn(f"{text}these are left out", DataWarning)
    return [k for k, size in enumerate(sizes) if min(size) >= side]

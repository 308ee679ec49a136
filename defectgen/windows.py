"""Windows of large photos, cut at full size: a defect of few pixels keeps them all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from defectgen import __version__
from defectgen.checks import check_range, check_resolution
from defectgen.data.deferred import SquareImage, as_picture
from defectgen.data.layouts import defect_pairs, good_images
from defectgen.data.masks import MAX_FOREGROUND, decode_mask
from defectgen.data.pictures import decode_oblong
from defectgen.data.sources import SHOWN, Findings, Value, read_size
from defectgen.errors import DataWarning, ImageError
from defectgen.files import atomic_file
from defectgen.messages import warn
from defectgen.records import Record
from defectgen.rng import generator
from defectgen.writer import check_empty

#: Where each window lay, a line each; written last: a folder with this file is complete.
WINDOWS_NAME = "windows.jsonl"
#: Of what a further window shows of the mask, at least this share is in no earlier one.
LEAST = 0.1
#: Places looked at for each window that is wanted: what is left at the edge of one counts, too.
TRIES = 4

Mask = NDArray[np.bool_]


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
Cut: TypeAlias = tuple[Window, Image.Image, Mask | None]


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
        seed: Of the places.
        layout: As in `data check`, like the next three.
        category: Likewise.
        split: Likewise.
        drop_bad: Likewise.

    Returns:
        The number of windows.

    Raises:
        ConfigError: an argument is out of its range, or ``out`` has content.
        ImageError: files cannot be used, or are smaller than a window; all of them are listed.
        OSError: the file system refuses.
    """
    root = _checked(out, side, count)
    check_range("seed", seed, low=0, integer=True)
    values = good_images(
        path, layout=layout, category=category, split=split, square="pad", drop_bad=drop_bad
    )
    photos = [_whole(value) for value in values]
    _check_large_enough(photos, side)
    findings = Findings("path", len(photos))

    def windows() -> Iterator[Cut]:
        for photo in photos:
            picture, remarks = decode_oblong(photo)
            findings.note(Path(str(photo)).name, remarks)
            name = _below(photo, path)
            for place in _random_places(picture.size, side, count, generator(seed, "window", name)):
                yield _window(name, picture, place, side), picture, None

    number = _write(root, windows())
    findings.warn()
    return number


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

    The first window of a photo shows as much of its defects as any can, the next one as much as
    any of what is left. A mask is cut with its photo, so it may hold several defects.

    Args:
        path: As for `fit`: a folder of photos, or a data set; photos may be oblong.
        masks: As for `fit`; None if `path` tells them.
        out: New or empty folder: ``images``, ``masks``, and ``windows.jsonl``.
        side: Of a window in pixels, a power of two from 32 to 1024: the backbone's resolution.
        count: At most so many windows of each photo.
        defect: The type, where there are several.
        layout: As in `data check`, like the next three.
        category: Likewise.
        split: Likewise.
        drop_bad: Likewise.

    Returns:
        The number of windows.

    Raises:
        ConfigError: an argument is out of its range, or ``out`` has content.
        ImageError: files cannot be used, or are smaller than a window; all of them are listed.
        MaskError: the same, if they are all about masks.
        OSError: the file system refuses.

    Warns:
        DataWarning: part of the defects is in no window.
    """
    root = _checked(out, side, count)
    options = {"layout": layout, "category": category, "split": split, "drop_bad": drop_bad}
    pairs = defect_pairs(path, masks, defect=defect, square="pad", **options)  # type: ignore[arg-type]
    photos = [_whole(value) for value in pairs.images]
    _check_large_enough(photos, side)
    findings, left_out = Findings("path", len(photos)), list[str]()

    def windows() -> Iterator[Cut]:
        for photo, truth in zip(photos, pairs.masks, strict=True):
            picture, remarks = decode_oblong(photo)
            mask, _ = decode_mask(_whole(truth))
            findings.note(Path(str(photo)).name, remarks)
            rest = mask.copy()
            for left, top in defect_places(mask, side, count):
                rest[top : top + side, left : left + side] = False
                yield _window(_below(photo, path), picture, (left, top), side), picture, mask
            if rest.any():
                left_out.append(f"{Path(str(photo)).name} {rest.sum() / mask.sum():.0%}")

    number = _write(root, windows())
    findings.warn()
    _tell_left_out(left_out, len(photos))
    return number


def _tell_left_out(photos: list[str], total: int) -> None:
    if photos:
        some = ", ".join(photos[:3]) + (", ..." if len(photos) > 3 else "")
        warn(
            f"count: windows show all that is marked; got part of it in none, for {len(photos)} "
            f"of {total} photos ({some}); raise count or side, or leave it so",
            DataWarning,
        )


def defect_places(mask: Mask, side: int, count: int) -> list[tuple[int, int]]:
    """Left and top of at most so many windows that show the most of a mask (H, W)."""
    rest, found = mask.copy(), list[tuple[int, int]]()
    # What fills its window shows no place around the defect, and is refused as a mask.
    allowed = _sums(mask, side) <= MAX_FOREGROUND * side**2
    for _ in range(TRIES * count):
        shown = _sums(rest, side) * allowed
        best = int(shown.max())
        if best == 0 or len(found) == count:
            break
        rows, columns = np.nonzero(shown == best)
        # In the middle of the places that show as much the defect lies in the middle.
        away = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
        top, left = int(rows[away.argmin()]), int(columns[away.argmin()])
        part = slice(top, top + side), slice(left, left + side)
        if best >= LEAST * mask[part].sum():
            found.append((left, top))
        rest[part] = False
    return found


def _sums(mask: Mask, side: int) -> NDArray[np.int64]:
    """How much of a mask (H, W) each window shows: (H - side + 1, W - side + 1)."""
    table = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    part = table[side:, side:] - table[:-side, side:] - table[side:, :-side]
    return np.asarray(part + table[:-side, :-side], np.int64)


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
    left, top = place
    width, height = picture.size
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


def _checked(out: str | os.PathLike[str], side: int, count: int) -> Path:
    check_resolution(side, "side")
    check_range("count", count, low=1, integer=True)
    check_empty(Path(out), "out")
    return Path(out)


def _whole(value: Value) -> Value:
    """A picture as it is, not made square."""
    return value.source if isinstance(value, SquareImage) else value


def _below(photo: Value, path: str | os.PathLike[str]) -> str:
    """The path of a photo below the folder that was given."""
    whole, root = Path(os.path.abspath(str(photo))), Path(os.path.abspath(Path(path).expanduser()))
    return whole.relative_to(root).as_posix()


def _check_large_enough(photos: list[Value], side: int) -> None:
    sizes = {Path(str(photo)).name: read_size(photo) for photo in photos}
    small = [f"{name} is {s[1]}x{s[0]}" for name, s in sizes.items() if s and min(s) < side]
    if small:
        more = f", and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
        raise ImageError(
            f"side: at most the shorter side of every photo; got {side}, and "
            f"{', '.join(small[:SHOWN])}{more}; choose a smaller side, or leave these photos out"
        )

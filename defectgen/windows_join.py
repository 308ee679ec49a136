"""Samples on windows of large photos, put back into these: pictures and masks at full size."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from defectgen.data.pictures import decode_oblong
from defectgen.data.sources import Unusable
from defectgen.errors import ConfigError, ImageError
from defectgen.files import atomic_file, read_text, safe_join
from defectgen.windows import WINDOWS_NAME, Window
from defectgen.writer import METADATA_NAME, check_empty

_MAX_BYTES = 1 << 30
#: Photos that are kept decoded: samples of one photo need not lie side by side.
_KEPT = 8


def join_windows(
    samples: str | os.PathLike[str],
    windows: str | os.PathLike[str],
    photos: str | os.PathLike[str],
    out: str | os.PathLike[str],
) -> int:
    """Put samples back into the photos whose windows they were drawn on.

    Args:
        samples: What ``defectgen sample --good-images WINDOWS`` wrote.
        windows: What `cut_good` wrote.
        photos: The folder that it was given.
        out: New or empty folder: ``images`` and ``masks`` of the photos' size, and
            ``metadata.jsonl`` with all that is known of each sample, its photo, and its place.

    Returns:
        The number of pictures: one for each sample.

    Raises:
        ConfigError: a folder is not what it should be, or the photos have changed since they were
            cut.
        ImageError: a picture cannot be read.
        OSError: the file system refuses.
    """
    root = Path(out)
    check_empty(root, "out")
    known = {window.window: window for window in _windows(Path(windows))}
    lines = _lines(Path(samples) / METADATA_NAME, "samples", "`defectgen sample`")
    for line in lines:
        ground = line.get("background")
        if not isinstance(ground, str) or ground not in known:
            raise ConfigError(
                f"samples: drawn with --good-images {os.fspath(windows)}; got one on "
                f"{ground!r}, which is no window there; draw them on these"
            )

    @lru_cache(maxsize=_KEPT)
    def photo_of(name: str) -> Image.Image:
        return _read(safe_join(photos, name), "photos")

    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(root / METADATA_NAME) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as f,
    ):
        for number, line in enumerate(lines):
            window = known[line["background"]]
            photo = photo_of(window.photo)
            _check_same(photo, _read(safe_join(windows, window.window), "windows"), window)
            image, mask = (_part(Path(samples), line, part, window) for part in ("image", "mask"))
            place, name = (window.left, window.top), f"{number:06d}.png"
            whole, marked = photo.copy(), Image.new("L", photo.size)
            whole.paste(image.convert(photo.mode), place)
            marked.paste(mask.convert("L"), place)
            whole.save(root / "images" / name)
            marked.save(root / "masks" / name)
            more = {"image": f"images/{name}", "mask": f"masks/{name}", **_told(window)}
            f.write(json.dumps({**line, **more}) + "\n")
    return len(lines)


def _told(window: Window) -> dict[str, Any]:
    return {"photo": window.photo, "left": window.left, "top": window.top}


def _windows(folder: Path) -> Iterator[Window]:
    for line in _lines(folder / WINDOWS_NAME, "windows", "`defectgen windows goods`"):
        yield Window.from_dict(line)


def _lines(path: Path, name: str, writer: str) -> list[dict[str, Any]]:
    """The records of a file; it is written last, so without it a folder is not complete."""
    try:
        lines = [json.loads(line) for line in read_text(path, _MAX_BYTES).splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{name}: a folder that {writer} wrote to its end; got {str(path.parent)!r}, whose "
            f"{path.name} cannot be read; pass that folder, or write it again"
        ) from error
    if not lines or not all(isinstance(line, dict) for line in lines):
        got = "other lines" if lines else "none"
        raise ConfigError(f"{name}: records in {str(path)!r}; got {got}; write them again")
    return lines


def _read(path: Path, name: str) -> Image.Image:
    try:
        return decode_oblong(path)[0]
    except Unusable as error:
        raise ImageError(f"{name}: readable pictures; got {str(path)!r}, which {error}") from error


def _check_same(photo: Image.Image, cut: Image.Image, window: Window) -> None:
    """The photo still shows what was cut out of it."""
    left, top, side = window.left, window.top, window.side
    same = photo.size == (window.width, window.height) and cut.size == (side, side)
    same &= 0 <= left <= window.width - side and 0 <= top <= window.height - side
    if same:  # else it might be a picture of any size
        there = photo.crop((left, top, left + side, top + side)).convert("RGB")
        same = np.array_equal(np.asarray(there), np.asarray(cut.convert("RGB")))
    if not same:
        raise ConfigError(
            f"photos: those that the windows were cut of; got {window.photo!r}, which is another "
            f"one at {window.window}; pass their folder, or cut again"
        )


def _part(samples: Path, line: dict[str, Any], part: str, window: Window) -> Image.Image:
    """Image or mask of a sample, as large as its window."""
    picture = _read(safe_join(samples, str(line.get(part))), "samples")
    if picture.size != (window.side, window.side):
        raise ConfigError(
            f"samples: as large as the windows, {window.side} px; got {picture.width} px in "
            f"{line.get(part)!r}; cut windows of the backbone's resolution"
        )
    return picture

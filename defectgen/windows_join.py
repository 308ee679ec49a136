"""Samples on windows of large photos, put back into these: pictures and masks at full size."""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from defectgen import __version__
from defectgen.checks import check_choice
from defectgen.errors import ConfigError
from defectgen.files import atomic_file, read_text, safe_join
from defectgen.windows import WINDOWS_NAME, Window, new_folder, read_picture
from defectgen.writer import DEFECT, LAYOUTS, METADATA_NAME, check_defect

_MAX_BYTES = 1 << 30
#: Photos that are kept decoded.
_KEPT = 2
_PARTS = ("images", "masks")


def join_windows(
    samples: str | os.PathLike[str],
    windows: str | os.PathLike[str],
    photos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layout: str = "plain",
    defect: str = DEFECT,
) -> int:
    """Put samples back into the photos whose windows they were drawn on.

    Args:
        samples: What ``defectgen sample --good-images WINDOWS`` wrote.
        windows: What `cut_good` wrote.
        photos: The folder that it was given.
        out: New or empty folder: pictures and masks of the photos' size, of 8 bits, and
            ``metadata.jsonl`` with all that is known of each sample, its photo, and its place.
        layout: "plain": ``images`` and ``masks``; "mvtec": ``test`` and ``ground_truth``.
        defect: name of the type in the layout of MVTec AD.

    Returns:
        The number of pictures: one for each sample.

    Raises:
        ConfigError: a folder is not what it should be, or the photos have changed since they were
            cut; ``out`` is empty then.
        ImageError: a picture cannot be read; likewise.
        OSError: the file system refuses.
    """
    check_choice("layout", layout, list(LAYOUTS))
    check_defect(defect)
    source, cuts, home = (Path(given).expanduser() for given in (samples, windows, photos))
    with new_folder(out) as root:
        known = _windows(cuts)
        lines = _lines(source / METADATA_NAME, "samples", "`defectgen sample`")
        for line in lines:
            ground = line.get("background")
            if not isinstance(ground, str) or ground not in known:
                raise ConfigError(
                    f"samples: drawn with --good-images {os.fspath(windows)}; got one on "
                    f"{ground!r}, which is no window there; draw them on these"
                )

        return _write(root, lines, (source, cuts, home), known, _places(layout, defect))


def _places(layout: str, defect: str) -> dict[str, tuple[str, str]]:
    """Folder and end of a name, of images and masks."""
    found = LAYOUTS[layout]
    return {part: (found[part][0].format(defect=defect), found[part][1]) for part in _PARTS}


def _write(
    root: Path,
    lines: list[dict[str, Any]],
    folders: tuple[Path, Path, Path],
    known: dict[str, Window],
    places: dict[str, tuple[str, str]],
) -> int:
    samples, cuts, home = folders

    @lru_cache(maxsize=_KEPT)
    def photo_of(name: str) -> Image.Image:
        return read_picture(_below(home, name), "photos")

    for at, _ in places.values():
        (root / at).mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(root / METADATA_NAME) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as f,
    ):
        for number, line in enumerate(lines):
            window = known[line["background"]]
            photo = photo_of(window.photo)
            cut = read_picture(_inside(cuts, window.window, "windows"), "windows")
            _check_same(photo, cut, window)
            image, mask = (_part(samples, line, part, window) for part in ("image", "mask"))
            whole, marked = _put(photo, image, mask, window)
            names = {part: f"{at}/{number:06d}{end}.png" for part, (at, end) in places.items()}
            whole.save(root / names["images"])
            marked.save(root / names["masks"])
            record = {**line, "image": names["images"], "mask": names["masks"]}
            record.pop("normal", None)  # that is the photo
            f.write(json.dumps(record | _told(window, marked), allow_nan=False) + "\n")
    return len(lines)


def _put(
    photo: Image.Image, image: Image.Image, mask: Image.Image, window: Window
) -> tuple[Image.Image, Image.Image]:
    """The photo with the sample in its window, and its mask."""
    colored = image.mode == "RGB" and photo.mode == "L"  # a defect may be, on a gray part
    whole, marked = photo.convert("RGB") if colored else photo.copy(), Image.new("L", photo.size)
    whole.paste(image.convert(whole.mode), (window.left, window.top))
    marked.paste(mask, (window.left, window.top))
    return whole, marked


def _told(window: Window, marked: Image.Image) -> dict[str, Any]:
    """What is known of a picture beside its sample."""
    return {
        "photo": window.photo,
        "left": window.left,
        "top": window.top,
        "side": window.side,
        "mask_area": round(float((np.asarray(marked) > 0).mean()), 8),
        "library_version": __version__,
    }


def _windows(folder: Path) -> dict[str, Window]:
    """Windows by their names."""
    lines = _lines(folder / WINDOWS_NAME, "windows", "`defectgen windows goods`")
    known = {window.window: window for window in map(Window.from_dict, lines)}
    if len(known) < len(lines):
        raise ConfigError(
            f"windows: one line for each; got {len(lines)} lines about {len(known)} windows in "
            f"{str(folder)!r}; cut them again"
        )
    return known


def _lines(path: Path, name: str, writer: str) -> list[dict[str, Any]]:
    """The records of a file; it is written last, so without it a folder is not complete."""
    try:
        text = read_text(path, _MAX_BYTES)
        lines = [json.loads(line, parse_constant=_refuse) for line in text.splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{name}: a folder that {writer} wrote to its end; got {str(path.parent)!r}, whose "
            f"{path.name} cannot be read; pass that folder, or write it again"
        ) from error
    if not lines or not all(isinstance(line, dict) for line in lines):
        got = "other lines" if lines else "none"
        raise ConfigError(f"{name}: records in {str(path)!r}; got {got}; write them again")
    return lines


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _inside(folder: Path, name: object, argument: str) -> Path:
    """A file that a record names, in a folder, also through links.

    Raises:
        ConfigError: it leads out of there, or is no name.
    """
    try:
        return safe_join(folder, name if isinstance(name, str) else "")
    except (ConfigError, ValueError) as error:
        raise _outside(name, argument) from error


def _below(photos: Path, name: str) -> Path:
    """A photo that a record names; links among photos are the user's own."""
    parts = re.split(r"[/\\]" if os.name == "nt" else "/", name)
    rooted = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive
    if not name or rooted or ".." in parts or "\0" in name:
        raise _outside(name, "photos")
    return photos.joinpath(*parts)


def _outside(name: object, argument: str) -> ConfigError:
    return ConfigError(
        f"{argument}: records name files in their folder; got {name!r}; write them again"
    )


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
            f"one at {window.window!r}; pass their folder, or cut again"
        )


def _part(samples: Path, line: dict[str, Any], part: str, window: Window) -> Image.Image:
    """Image or mask of a sample, as large as its window."""
    picture = read_picture(_inside(samples, line.get(part), "samples"), "samples")
    if picture.size != (window.side, window.side):
        raise ConfigError(
            f"samples: as large as the windows, {window.side} px; got {picture.width} px in "
            f"{line.get(part)!r}; cut windows of the backbone's resolution"
        )
    if part == "mask" and not {0, 255}.issuperset(np.unique(np.asarray(picture)).tolist()):
        raise ConfigError(
            f"samples: masks of 0 and 255; got other values in {line.get(part)!r}; draw them again"
        )
    return picture

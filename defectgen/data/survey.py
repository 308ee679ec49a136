"""What a data set on disk holds, before any picture is decoded: the record that layouts fill."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from defectgen.data.sources import SUFFIXES, Value, pictures
from defectgen.errors import ConfigError, ImageError
from defectgen.files import read_text

#: Of one annotation file; the tables of the large public sets have a tenth of it.
MAX_TEXT_BYTES = 64_000_000

#: Endings of pictures that are not read; other files are none of our business.
UNREAD = ("gif", "heic", "heif", "avif", "jp2", "dng", "cr2", "nef", "arw", "tga", "ppm", "pgm")

Part = Literal["train", "test"]

COMBINED = "combined"  # the type of an image with defects of several types

#: What a layout is asked for: everything, good images for training, or defects.
Want = Literal["all", "good", "defects"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file or folder.

    Attributes:
        file: its path below the folder of the data set, with forward slashes.
        reason: what is wrong, and what to do.
        severity: "error" if the file cannot be used, "warning" if it can.
        about: "image" or "mask".
        kind: the type of the defect, where it is about a single one and that is known.
    """

    file: str
    reason: str
    severity: Literal["error", "warning"] = "error"
    about: Literal["image", "mask"] = "image"
    kind: str | None = None


@dataclass(frozen=True)
class Entry:
    """One image of a data set, and its mask.

    Attributes:
        part: "train" or "test".
        kind: the type of the defect, or None for a good image.
        image: the file.
        mask: the file or what draws it; None for a good image.
    """

    part: Part
    kind: str | None
    image: Path
    mask: Value | None = None


@dataclass
class Survey:
    """Entries and problems of one data set, as its layout tells them.

    Attributes:
        layout: "mvtec", "visa" or "folder".
        folder: where its files lie; names in problems are relative to it.
        entries: all images that have what they need.
        problems: what is missing, left over or contradicts itself.
        kinds: the type of the defect of files and of what lies in folders, where they tell it.
    """

    layout: str
    folder: Path
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    kinds: dict[Path, str] = field(default_factory=dict)

    def name(self, path: object) -> str:
        """Return a path below the folder with forward slashes, and any other value as text."""
        if isinstance(path, Path):
            try:
                return printable(path.relative_to(self.folder).as_posix())
            except ValueError:
                return printable(str(path))
        return plain_name(str(path), "a file without a name")

    def error(
        self, path: object, reason: str, *, mask: bool = False, kind: str | None = None
    ) -> None:
        """Remember what cannot be used."""
        about: Literal["image", "mask"] = "mask" if mask else "image"
        kind = self.kind_of(path) or kind
        self.problems.append(Problem(self.name(path), reason, "error", about, kind))

    def warn(self, path: object, reason: str, *, mask: bool = False) -> None:
        """Remember what can be used and looks wrong."""
        about: Literal["image", "mask"] = "mask" if mask else "image"
        kind = self.kind_of(path)
        self.problems.append(Problem(self.name(path), reason, "warning", about, kind))

    def kind_of(self, path: object) -> str | None:
        """Return the type of the defect of a file, if it or a folder around it tells that."""
        places = (path, *path.parents) if isinstance(path, Path) else ()
        return next((self.kinds[place] for place in places if place in self.kinds), None)

    def add_good(self, part: Part, images: Iterable[Path]) -> None:
        """Add good images."""
        self.entries.extend(Entry(part, None, image) for image in images)

    def files_in(self, folder: Path, *, mask: bool = False) -> list[Path]:
        """List the pictures of a folder, and remember that it is missing or holds none."""
        if not folder.is_dir():
            self.error(folder, f"is missing{_others(folder.parent)}", mask=mask)
            return []
        found = self.pictures_in(folder)
        if not found:
            self.error(folder, f"holds no file ending in {', '.join(SUFFIXES)}", mask=mask)
        return found

    def pictures_in(self, folder: Path) -> list[Path]:
        """List the pictures of a folder, and remember pictures of kinds that are not read."""
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            if path.suffix[1:].lower() in UNREAD and not path.name.startswith("."):
                self.warn(path, "is of a kind that is not read: save it as PNG or JPEG")
        return pictures(folder)

    def read(self, path: Path, *, mask: bool = False) -> str | None:
        """Read an annotation file, or remember why it cannot be read and return None."""
        try:
            text = read_text(path, MAX_TEXT_BYTES).removeprefix("\ufeff")
            return text.replace("\r\n", "\n")
        except ConfigError:
            limit = MAX_TEXT_BYTES // 10**6
            self.error(path, f"is no UTF-8 text of up to {limit} MB: save it as that", mask=mask)
        except OSError as error:
            self.error(path, f"cannot be read ({error.strerror}): check it", mask=mask)
        return None


def _others(folder: Path) -> str:
    """What there is instead of a folder that the layout has."""
    names = [path.name for path in subfolders(folder)]
    more = ", ..." if len(names) > 5 else ""
    there = f", which has {', '.join(names[:5])}{more}" if names else ""
    return f": the layout has a folder of this name in {folder.name!r}{there}; check the names"


def one_kind(kinds: Collection[str]) -> str | None:
    """Return the type of an image whose defects are of these types; None if there are none."""
    return COMBINED if len(kinds) > 1 else next(iter(kinds), None)


def printable(text: str) -> str:
    """Replace what cannot be printed, so that no file name can steer a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def plain_name(text: str, otherwise: str) -> str:
    """Return a name that came from a file, fit for one line of a report or a caption.

    Args:
        text: The name; what cannot be printed is left out, and so is what follows 100 characters.
        otherwise: What is returned if nothing remains.
    """
    words = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
    return words[:100] or otherwise


def subfolders(folder: Path) -> list[Path]:
    """List the sub-folders of a folder by name, without hidden ones; none if it is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: path.name,
    )


def existing_folder(path: str | os.PathLike[str], argument: str) -> Path:
    """Return a path that a user gave for a folder.

    Raises:
        ImageError: it is none.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise ImageError(
            f"{argument}: must name a folder; got {str(folder)!r}, which is {what}; check the path"
        )
    return folder


def category_folder(root: str | os.PathLike[str], category: str) -> Path:
    """Return the folder of one category of a data set.

    Raises:
        ConfigError: the category is no plain name.
        ImageError: there is no such folder; the message names those that there are.
    """
    base = existing_folder(root, "root")
    plain = isinstance(category, str) and category not in ("", ".", "..")
    if not plain or any(sign in category for sign in "/\\\0"):
        raise ConfigError(
            f"category: must be the name of a folder in root; got {category!r}; pass a plain name"
        )
    folder = base / category
    if not folder.is_dir():
        there = ", ".join(path.name for path in subfolders(base)[:30]) or "no folder"
        raise ImageError(
            f"category: must be the name of a folder in root; got {category!r}, but "
            f"{str(base)!r} holds {there}; name one of these or check root"
        )
    return folder

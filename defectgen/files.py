"""Reading and writing on disk so that a crash, a full disk or a hostile name does no harm.

Writes go to a temporary sibling first and are renamed into place, so a reader sees the old content
or the new one and never a half.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from defectgen.errors import ConfigError
from defectgen.system import WINDOWS, exchange, move

# Folders of weights and of compiled kernels hold this file.
FOLDER_MARK = "config.json"
#: What file managers leave behind.
_LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini", re.IGNORECASE)
#: State of a training, in its run folder.
RESUME_NAME = "resume.pt"


def run_beside(out: str | os.PathLike[str]) -> Path:
    """The run folder of an output that nobody named another for: OUT.run beside OUT."""
    path = Path(out).absolute() if Path(out).name in ("", "..") else Path(out)
    if not path.name:
        raise ConfigError(f"out: must name a folder; got {str(out)!r}; add a name")
    return path.with_name(f"{path.name}.run")


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to, and move it to `path` when the block ends well.

    Missing parent folders are made. The file is flushed to the disk before the move. If the block
    raises, the temporary file is removed and an older file at `path` stays as it was.

    Args:
        path: The file to be written or replaced.

    Yields:
        A path in the same folder that does not exist yet.

    Raises:
        ConfigError: `path` is a folder.
        OSError: the file system refuses.
    """
    target = Path(path)
    if target.is_dir():
        raise ConfigError(f"path: must name a file; got the folder {str(target)!r}; add a name")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(target, "tmp")
    try:
        yield temporary
        _flush(temporary)
        move(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(target.parent)


def unmarked(folder: Path) -> list[str]:
    """All entries of a folder without `config.json`; none of one that has it."""
    return [] if (folder / FOLDER_MARK).is_file() else sorted(os.listdir(folder))


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], foreign: Callable[[Path], list[str]] = unmarked
) -> Iterator[Path]:
    """Give a temporary folder to fill, and rename it to `path` when the block ends well.

    An older folder at `path` is renamed away first and removed last, so that one complete folder
    exists at every moment. If the block raises, the older folder stays as it was.

    Args:
        path: The folder to be written or replaced. A link is followed.
        foreign: Names in an older folder what the library did not write there.

    Yields:
        An existing empty folder beside `path`.

    Raises:
        ConfigError: `path` is a file, or a folder with foreign content.
        OSError: the file system refuses.
    """
    target = Path(path).resolve()
    check_replaceable(target, foreign)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(target, "tmp")
    temporary.mkdir()
    try:
        yield temporary
        for entry in sorted(temporary.rglob("*")):
            _flush(entry)
        _flush(temporary)
        # Again: the block may have taken hours, and somebody may have put files there meanwhile.
        check_replaceable(target, foreign)
        _swap(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_replaceable(
    path: str | os.PathLike[str],
    foreign: Callable[[Path], list[str]] = unmarked,
    name: str = "path",
) -> None:
    """Refuse a folder whose replacement would lose what the library did not write.

    Args:
        path: as for `atomic_folder`, like `foreign`.
        foreign: likewise.
        name: The argument it came from.

    Raises:
        ConfigError: as `atomic_folder` does.
    """
    target = Path(path).resolve()
    # What is mounted cannot be renamed.
    if target == target.parent or os.path.ismount(target):
        raise ConfigError(f"{name}: must name a folder; got {str(target)!r}; add a name")
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigError(
            f"{name}: must name a folder; got the file {str(target)!r}; choose another name"
        )
    if names := [entry for entry in foreign(target) if not _LITTER.fullmatch(Path(entry).name)]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ConfigError(
            f"{name}: a folder with content is replaced only if all of it is known to be of this "
            f"library; got {str(target)!r} with {', '.join(names[:3])}{more}; "
            "choose an empty or a new folder"
        )


def check_writable(path: str | os.PathLike[str], name: str, *, folder: bool) -> None:
    """Find out whether a file or folder can be made at `path`, by making one beside it.

    Missing parent folders are made, and stay.

    Args:
        path: What shall be written later.
        name: The argument it came from.
        folder: Whether it shall be a folder.

    Raises:
        ConfigError: it cannot, or the other of the two is there.
    """
    # A link to a folder is followed, one to a file is replaced.
    target = Path(path).resolve() if folder else Path(path).absolute()
    if target.exists() and target.is_dir() != folder:
        wanted, found = ("folder", "file") if folder else ("file", "folder")
        raise ConfigError(
            f"{name}: must name a {wanted}; got the {found} {str(path)!r}; choose another name"
        )
    _try_place(target.parent, target, name)


def check_fillable(path: str | os.PathLike[str], name: str) -> None:
    """Find out whether files can be written into a folder that is made, or filled if it exists.

    What exists may be mounted, and lie in a folder that cannot be written to.

    Raises:
        ConfigError: as `check_writable` does, of whose arguments these are two.
    """
    if Path(path).is_dir():
        _try_place(Path(path), Path(path), name)
    else:
        check_writable(path, name, folder=True)


def safe_join(root: str | os.PathLike[str], relative: str) -> Path:
    """Join a name that came from a file or from the network to a folder, without leaving it.

    Args:
        root: The trusted folder.
        relative: The untrusted name, with forward slashes between folders.

    Returns:
        The path below `root`; it need not exist.

    Raises:
        ConfigError: the name is empty or absolute, holds `..`, a backslash, a drive or a null
            byte, or leads out of `root` through a link.
    """
    pure = PurePosixPath(relative)
    windows = PureWindowsPath(relative)
    bad = (
        not pure.parts
        or pure.is_absolute()
        or ".." in pure.parts
        or bool(windows.drive)
        or "\\" in relative
        or "\0" in relative
    )
    base = Path(root).resolve()
    joined = base if bad else base.joinpath(*pure.parts)
    if bad or not joined.resolve().is_relative_to(base):
        raise ConfigError(
            f"relative: must name something inside its folder; got {relative!r}; "
            "use a plain relative name without '..' and without links that lead out"
        )
    return joined


def read_text(path: str | os.PathLike[str], max_bytes: int) -> str:
    """Read a UTF-8 text file whose size is bounded.

    Args:
        path: The file.
        max_bytes: The largest size accepted; no more than this is read into memory.

    Raises:
        ConfigError: the file is larger than `max_bytes` or is not UTF-8.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ConfigError(
            f"path: a text file may have up to {max_bytes} bytes; got more in "
            f"{os.fspath(path)!r}; check that it is the right file"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"path: the file must be UTF-8 text; got other bytes at position {error.start} of "
            f"{os.fspath(path)!r}; check that it is the right file and is whole"
        ) from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _sibling(target: Path, ending: str) -> Path:
    # Hidden, so that no folder listing of ours takes an abandoned one for content.
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{ending}")


def _try_place(place: Path, path: Path, name: str) -> None:
    """Make something in a folder, itself made if missing, and remove it again."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe = _sibling(place / "probe", "tmp")
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise ConfigError(
            f"{name}: must be a place that can be written to; got {str(path)!r} "
            f"({error.strerror}: {error.filename}); choose another"
        ) from error


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        move(temporary, target)
        _flush(target.parent)
        return
    old = _sibling(target, "old")
    exchange(temporary, target, old)
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    if path.is_dir() and WINDOWS:
        return  # Windows cannot open a folder, and flushes its entries by itself.
    # Windows flushes only what is open for writing; a folder can only be opened for reading.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

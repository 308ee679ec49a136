"""What systems differ in: renames of files that others look at, memory, commands as text."""

from __future__ import annotations

import ctypes
import errno
import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

WINDOWS = os.name == "nt"
#: Seconds for which a rename is tried again, and the first pause, which doubles.
PATIENCE, PAUSE = 10.0, 0.02

#: What helps against what a file system says.
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "choose a place that is yours to use",
    errno.EPERM: "choose a place that is yours to use",
    errno.EROFS: "choose a place that can be written to",
}
#: Errors of Windows for what another program has open, or has locked a part of.
_IN_USE = (32, 33)
_CLOSE = "close what shows it (a viewer, a window, a prompt in that folder)"
#: What its shell takes for more than a letter.
_SIGNS = "&|<>^()%"


def move(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a file over an older one, or a folder to where none is, on one disk.

    Windows refuses while any program has the file open, or one within the folder; virus scanners
    and indexers open everything new. There the rename is tried again for some seconds.

    Raises:
        OSError: the file system refuses.
    """
    begun, pause = time.monotonic(), PAUSE
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if not WINDOWS or time.monotonic() - begun > PATIENCE:
                raise
        time.sleep(pause)
        pause *= 2


def exchange(new: Path, target: Path, aside: Path) -> None:
    """Rename a folder to where another one is, which is renamed first; both or neither.

    Raises:
        OSError: the file system refuses; if it takes nothing back, the error says so.
    """
    move(target, aside)
    try:
        move(new, target)
    except BaseException:
        try:
            move(aside, target)
        except OSError as error:
            said = f"{error.strerror or error}; what was there before is now {str(aside)!r}"
            raise OSError(error.errno or errno.EIO, said, str(target)) from error
        raise


def advice(error: OSError) -> str:
    """What helps against what a file system said."""
    if getattr(error, "winerror", None) in _IN_USE:
        return f"{_CLOSE}, and try again"
    found = _ADVICE.get(error.errno or 0, "check the disk and the path")
    # Windows says "denied" of both.
    return f"{_CLOSE}, or {found}" if WINDOWS and error.errno == errno.EACCES else found


def command_text(words: Sequence[str]) -> str:
    """A command as one types it here, quoted where it has to be."""
    if not WINDOWS:
        return shlex.join(words)
    quoted = ((word, subprocess.list2cmdline([word])) for word in words)
    signs = set(_SIGNS)
    return " ".join(f'"{w}"' if q == w and signs & set(w) else q for w, q in quoted)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _sizes = "total available paging free_paging virtual free_virtual extended"
    _fields_ = [
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in _sizes.split()),
    ]


def memory() -> tuple[int, int] | None:
    """Bytes of the machine's memory, and of these what is free on Windows; None if unknown."""
    if WINDOWS:
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
        return (int(status.total), int(status.available)) if known else None
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    return total, total

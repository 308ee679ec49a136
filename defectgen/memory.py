"""Freed memory stays with the process while networks run.

The allocator of glibc asks the system for every tensor above a limit and gives it back when the
tensor dies, and the system clears each page again: at 256 px this costs more than the arithmetic
(docs/performance.md). Between the first and the last caller of `kept_memory` such blocks are
taken from the heap and reused.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Names and values of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
#: Where glibc's own adjustment ends, and so what a process that has used large blocks has anyway.
_LARGEST_THRESHOLD = 32 * 2**20
_DEFAULT_MMAP_MAX = 65536

#: Bytes that lie idle above which `hand_back` gives them to the system.
SPARE = 2**30

_lock = threading.Lock()
_users = 0
#: What lay idle after the last time, and cannot be given back: fragments, and memory of others.
_residue = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for reuse inside this block; hand it back to the system after the last one.

    Nothing happens where the C library is not glibc. The setting belongs to the process: blocks
    may nest, and overlap in several threads.
    """
    global _users, _residue
    library = _glibc()
    with _lock:
        _users += 1
        if _users == 1 and library is not None:
            _residue = _idle(library)
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and library is not None:
                library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
                library.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
                library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
                library.malloc_trim(0)


class _Info(ctypes.Structure):
    """struct mallinfo2; ``uordblks`` and ``hblkhd`` are in use."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def hand_back() -> None:
    """Give kept memory back to the system if it is much: for a change from one job to another.

    Two jobs with tensors of different sizes do not fit into each other's gaps, so what both keep
    adds up. Below `SPARE` nothing happens: there, asking for the pages anew costs more.
    """
    global _residue
    library = _glibc() if _users else None
    if library is None or _idle(library) - _residue <= SPARE:
        return
    library.malloc_trim(0)
    _residue = _idle(library)


def _idle(library: ctypes.CDLL) -> int:
    """Bytes of memory that this process holds and its allocator does not use, 0 where unknown.

    What the allocator calls free also counts pages that it has given back long ago.
    """
    if not hasattr(library, "mallinfo2"):
        return 0
    library.mallinfo2.restype = _Info
    try:
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0
    info = library.mallinfo2()
    return resident - int(info.uordblks) - int(info.hblkhd)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None

"""A folder that one process at a time may write to."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from defectgen.errors import ConfigError


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Keep a folder for this process until the block, or the process, has ended.

    The folder itself is locked, so nothing is left behind; on Windows, where a folder cannot be, a
    file of its own in the temporary folder, which only this user of this machine sees. Where there
    are no locks (some network drives) there is none.

    Args:
        folder: an existing folder.
        name: The argument it came from.

    Raises:
        ConfigError: another process, or another run of this one, holds it.
    """
    try:
        import fcntl
    except ImportError:
        with _held_by_name(folder, name):
            yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(folder, name) from error
        except OSError:
            pass
        yield
    finally:
        with suppress(OSError):  # a process that was forked meanwhile has the handle, too
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


@contextmanager
def _held_by_name(folder: Path, name: str) -> Iterator[None]:
    # Not within the folder: that is replaced, and judged by what it holds.
    spelled = os.path.normcase(folder.resolve())
    key = hashlib.sha256(os.fsencode(spelled)).hexdigest()[:16]
    lock = FileLock(os.path.join(tempfile.gettempdir(), f"defectgen-{key}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise _taken(folder, name) from error
    except OSError:
        pass
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()


def _taken(folder: Path, name: str) -> ConfigError:
    return ConfigError(
        f"{name}: a folder that no other run is using; got {str(folder)!r}, into which "
        "another one is writing now; wait for it, or choose another folder"
    )

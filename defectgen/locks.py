"""A folder that one process at a time may write to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from defectgen.errors import ConfigError


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Keep a folder for this process until the block, or the process, has ended.

    The folder itself is locked, so nothing is left behind. Where the system has no such lock
    (Windows, some network drives) there is none.

    Args:
        folder: an existing folder.
        name: The argument it came from.

    Raises:
        ConfigError: another process, or another run of this one, holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{name}: a folder that no other run is using; got {str(folder)!r}, into which "
                "another one is writing now; wait for it, or choose another folder"
            ) from error
        except OSError:
            pass
        yield
    finally:
        with suppress(OSError):  # a process that was forked meanwhile has the handle, too
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)

"""The folder of native builds: private to its user, one lock per build, failures remembered."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from defectgen.errors import ConfigError
from defectgen.files import atomic_file, read_text
from defectgen.messages import say

VARIABLE = "DEFECTGEN_CACHE"
_MAX_BYTES = 1 << 16
# Where a cache cannot be used: the temporary folder of this process in its place.
_instead: dict[Path, Path] = {}


def folder() -> Path:
    """Folder of the builds, there or not; a temporary one once the usual one proved unusable."""
    usual = _usual()
    return _instead.get(usual, usual)


def _usual() -> Path:
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser().absolute() / "kernels"
    # The XDG rules: a folder that is not absolute counts as not given.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path(os.path.expanduser("~")) / ".cache"
    if not base.is_absolute():  # a user without a home: no such folder, so a temporary one
        base = Path(os.devnull)
    return base / "defectgen" / "kernels"


def trusted(path: Path) -> bool:
    """Whether only this user, or the administrator, can have put a library into this folder."""
    try:
        facts = path.stat()
    except OSError:
        return False
    return facts.st_uid in (0, os.getuid()) and not facts.st_mode & 0o022


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """Hold the lock of one build against every other process; it dies with this one.

    Args:
        name: of the build.

    Yields:
        The folder of the builds, there and writable. Where the usual one cannot be used, a
        temporary one that is removed when the process ends, and the user is told.

    Raises:
        OSError: not even a temporary folder can be made.
    """
    try:
        path = folder()
        file = _lock(_private(path) / f"{name}.lock")
    except OSError as error:
        path = _temporary(error)
        file = _lock(path / f"{name}.lock")
    with file:
        yield path


def _private(path: Path) -> Path:
    """Make the folder for this user alone, or find it so."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    if not trusted(path) and path.stat().st_uid == os.getuid():
        path.chmod(0o700)
        # Anybody may have put a library there while the folder was open.
        for found in path.iterdir():
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()
    if not trusted(path):
        raise PermissionError(1, "it belongs to another user", str(path))
    return path


def _lock(path: Path) -> IO[bytes]:
    """Open and lock a file; the lock lasts until the file is closed or the process has ended."""
    import fcntl  # not on Windows, where nothing is built

    file = open(path, "ab")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("kernels: another process is compiling them; waiting for it", 1)
        fcntl.flock(file, fcntl.LOCK_EX)
    except BaseException:
        file.close()
        raise
    return file


def _temporary(error: OSError) -> Path:
    usual = _usual()
    path = Path(tempfile.mkdtemp(prefix="defectgen-"))
    _instead[usual] = path
    atexit.register(_remove, path, os.getpid())
    say(
        f"kernels: {usual} cannot be used ({error.strerror or error}), so they are compiled for "
        f"this process only; set {VARIABLE} to a folder that can be written",
        1,
    )
    return path


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork of the process that made it
        shutil.rmtree(path, ignore_errors=True)


# -- failures --------------------------------------------------------------------------------------


def remember(name: str, reason: str, compiler: str) -> None:
    """Keep why a build failed, and with which compiler."""
    with atomic_file(_record(name)) as temporary:
        temporary.write_text(json.dumps({"reason": reason, "compiler": compiler}))


def recall(name: str, compiler: str) -> str | None:
    """Why the last build failed, if it did, and with this very compiler."""
    try:
        record = json.loads(read_text(_record(name), _MAX_BYTES))
        same, reason = record["compiler"] == compiler, record["reason"]
    except (OSError, ConfigError, ValueError, KeyError, TypeError):
        return None
    return str(reason) if same else None


def forget(name: str) -> None:
    """Forget that a build failed."""
    _record(name).unlink(missing_ok=True)


def _record(name: str) -> Path:
    return folder() / f"{name}.failed.json"

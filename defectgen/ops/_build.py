"""Building the native libraries, once per machine, and loading them, once per process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from defectgen.errors import ConfigError, KernelBuildError
from defectgen.files import FOLDER_MARK, atomic_folder, read_text
from defectgen.messages import logger, say
from defectgen.ops import _cache, _recipe
from defectgen.ops._compilers import OR_ELSE, Tools, find

_MAX_BYTES = 1 << 16
# How compilers and linkers begin what matters.
_ERROR = re.compile(r"\berror:|cannot find -l|undefined reference")
# What they say of a machine that is short of something now and may not be tomorrow.
_PASSING = re.compile(r"No space left|[Cc]annot allocate|out of memory|[Kk]illed|ld terminated")
_mutex = threading.RLock()
_loaded: dict[str, Path] = {}

# Torch compiles in a Python of its own: there the fresh library can be tried out without harm, and
# a second build does not register the same kernels twice with the process that asked for it.
_CHILD = """
import json, sys
order = json.loads(sys.argv[1])
sys.path[:] = order.pop("sys_path")
from torch.utils.cpp_extension import load
try:
    load(is_python_module=False, verbose=True, **order)
except RuntimeError as error:
    sys.exit(str(error))
except OSError as error:
    sys.exit(f"error: {error.__cause__ or error}")
"""


@dataclass(frozen=True)
class KernelStatus:
    """What can be said of a native library without building it.

    Attributes:
        kind: "cpu" or "cuda".
        state: "loaded", "built", "not built" or "unavailable".
        reason: why, in words.
        path: the library, where there is one.
        compiler: what compiled it or would compile it, where known.
    """

    kind: str
    state: str
    reason: str
    path: Path | None = None
    compiler: str | None = None


def load(kind: str) -> Path:
    """Load a library into this process, which registers its kernels; build it first if need be.

    Args:
        kind: "cpu" or "cuda".

    Returns:
        Its path.

    Raises:
        KernelBuildError: it cannot be had here; the message says what to do.
    """
    with _mutex:
        if kind not in _loaded:
            path = build(kind)
            try:
                torch.ops.load_library(path)  # type: ignore[no-untyped-call]
            except (OSError, RuntimeError) as error:
                raise KernelBuildError(
                    f"kernels: {path} cannot be loaded; got {error.__cause__ or error}; run "
                    f"'defectgen kernels build --force', {OR_ELSE}"
                ) from error
            _loaded[kind] = path
        return _loaded[kind]


def is_loaded(kind: str) -> bool:
    """Whether this process has loaded the library."""
    return kind in _loaded


def is_built(kind: str) -> bool:
    """Whether a build of these very sources, for this torch and machine, is there to be loaded."""
    return _recipe.absent(kind) is None and _complete(_place(kind))


def build(kind: str, force: bool = False) -> Path:
    """Build a library if there is no build of it; other processes wait for the one that builds.

    Args:
        kind: "cpu" or "cuda".
        force: build again, and try again what failed before.

    Returns:
        Its path.

    Raises:
        KernelBuildError: it cannot be built here, or failed before; the message says what to do.
    """
    if kind not in _recipe.KINDS:
        raise ConfigError(f"kind: must be one of {_recipe.KINDS}; got {kind!r}; choose one")
    reason = _recipe.absent(kind)
    if reason is not None:
        raise KernelBuildError(f"kernels: none for {kind} here; {reason}; {OR_ELSE[3:]}")
    with _mutex:
        place = _place(kind)
        if force or not _complete(place):
            tools = find(kind)
            try:
                place = _build_once(kind, place.name, tools, force)
            except OSError as error:
                raise KernelBuildError(
                    f"kernels: a build needs room on the disk; got {error}; free some, or set "
                    f"{_cache.VARIABLE} to another folder, {OR_ELSE}"
                ) from error
        return place / _file(kind)


def build_all(force: bool = False) -> list[KernelBuildError]:
    """Build every library that can exist on this machine; returns what went wrong, if anything."""
    errors = []
    for kind in _recipe.KINDS:
        if _recipe.absent(kind) is None:
            try:
                build(kind, force)
            except KernelBuildError as error:
                errors.append(error)
    return errors


def status(kind: str) -> KernelStatus:
    """What can be said of a library without building it."""
    if kind in _loaded:
        path = _loaded[kind]
        return KernelStatus(kind, "loaded", "in use by this process", path, _compiler(path.parent))
    reason = _recipe.absent(kind)
    if reason is not None:
        return KernelStatus(kind, "unavailable", reason)
    place = _place(kind)
    if _complete(place):
        path = place / _file(kind)
        return KernelStatus(kind, "built", "ready to be loaded", path, _compiler(place))
    try:
        tools = find(kind)
    except KernelBuildError as error:
        return KernelStatus(kind, "unavailable", str(error))
    failure = _cache.recall(place.name, tools.name)
    if failure is not None:
        return KernelStatus(kind, "unavailable", failure, compiler=tools.name)
    return KernelStatus(kind, "not built", "will be compiled on first use", compiler=tools.name)


def _place(kind: str) -> Path:
    return _cache.folder() / f"{kind}-{_recipe.key(kind)}"


def _file(kind: str) -> str:
    return f"defectgen_{kind}.so"


def _complete(place: Path) -> bool:
    """Whether the folder holds a whole build: its mark is written last, then it gets its name."""
    library = place / _file(place.name.partition("-")[0])
    return library.is_file() and (place / FOLDER_MARK).is_file() and _cache.trusted(place.parent)


def _compiler(place: Path) -> str | None:
    try:
        return str(json.loads(read_text(place / FOLDER_MARK, _MAX_BYTES))["compiler"])
    except (OSError, ConfigError, ValueError, KeyError, TypeError):
        return None


# -- the build itself ------------------------------------------------------------------------------


def _build_once(kind: str, name: str, tools: Tools, force: bool) -> Path:
    with _cache.locked(name) as folder:
        if not force and _complete(folder / name):
            return folder / name  # while this process waited for the lock
        failure = None if force else _cache.recall(name, tools.name)
        if failure is not None:
            raise KernelBuildError(failure)
        _sweep(folder, name)
        say(f"kernels: compiling those for {kind}, once on this machine; some seconds", 1)
        began = time.perf_counter()
        with atomic_folder(folder / name) as fresh:
            flags = _recipe.host_flags(kind)
            if _recipe.NATIVE in flags and not tools.takes(_recipe.NATIVE):
                flags = _recipe.host_flags(kind, native=False)
            _compile(kind, name, fresh, flags, tools)
            if not name.endswith(_recipe.key(kind)):
                raise KernelBuildError("kernels: the sources changed while compiling; call again")
            _keep_library(kind, fresh)
            facts = {"kind": "kernels", "library": kind, "compiler": tools.name, "flags": flags}
            (fresh / FOLDER_MARK).write_text(json.dumps(facts))
        logger.info("kernels: compiled for %s in %.1f s", kind, time.perf_counter() - began)
        _cache.forget(name)
        return folder / name


def _sweep(folder: Path, name: str) -> None:
    """Remove what killed builds have left, torch's own lock file among it; our lock is held."""
    for rest in folder.glob(f".{name}.*"):
        shutil.rmtree(rest, ignore_errors=True)
    if (folder / name).exists() and not _complete(folder / name):
        shutil.rmtree(folder / name)


def _compile(kind: str, name: str, fresh: Path, flags: list[str], tools: Tools) -> None:
    """Compile and link in a new folder, and try whether the library loads.

    Raises:
        KernelBuildError: the compiler refuses; remembered, unless something killed it or memory
            or disk ran out.
    """
    order = {
        "name": _file(kind).removesuffix(".so"),
        "sources": [str(path) for path in _recipe.sources(kind)],
        "extra_cflags": flags,
        "extra_cuda_cflags": _recipe.device_flags(),
        "build_directory": str(fresh),
        "with_cuda": kind == "cuda",
        "sys_path": [os.path.abspath(path) for path in sys.path],
    }
    log = fresh.parent / f"{name}.log"
    with open(log, "wb") as output:
        code = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD, json.dumps(order)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | tools.environment,
            cwd=fresh,
        ).returncode
    if code == 0:
        log.unlink()
        return
    if code < 0:
        raise KernelBuildError(
            f"kernels: the build for {kind} was ended by signal {-code}; call again, {OR_ELSE}"
        )
    reason = (
        f"kernels: those for {kind} must compile; {tools.name} said: {_essence(log)}; the whole "
        f"output is in {log}; after a repair run 'defectgen kernels build --force', {OR_ELSE}"
    )
    if not _PASSING.search(log.read_text(errors="replace")):
        _cache.remember(name, reason, tools.name)
    raise KernelBuildError(reason)


def _keep_library(kind: str, fresh: Path) -> None:
    for path in fresh.iterdir():
        if path.name != _file(kind):
            path.unlink()
    fresh.chmod(0o700)


def _essence(log: Path) -> str:
    """Up to three lines of the output in one: those that name an error, else the last ones."""
    lines = log.read_text(errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)]
    return " | ".join(errors[:3] or lines[-3:]) or "nothing"

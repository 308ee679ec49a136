"""Finding what a build needs: C++ compiler, ninja, nvcc; each error says what to install."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from defectgen.errors import KernelBuildError
from defectgen.ops import _recipe

OR_ELSE = "or set DEFECTGEN_KERNELS=reference"
# Tried in this order where CXX is not set; torch itself would try the first one only.
_NAMES = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Tools:
    """What compiles a library.

    Attributes:
        cxx: command of the C++ compiler.
        name: first line of what the compilers say of themselves; tells them apart.
        environment: variables under which torch finds all of it.
    """

    cxx: str
    name: str
    environment: dict[str, str]

    def takes(self, flag: str) -> bool:
        """Compile nothing with this flag and see whether the compiler minds."""
        command = [*shlex.split(self.cxx), flag, "-x", "c++", "-c", os.devnull, "-o", os.devnull]
        return _output(command) is not None


def find(kind: str) -> Tools:
    """The tools to build this library with.

    Raises:
        KernelBuildError: one is missing, or nvcc belongs to another CUDA than torch.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        raise KernelBuildError(
            "python: a build starts a Python of its own; got one that is part of another program; "
            f"run 'defectgen kernels build' on this machine, {OR_ELSE}"
        )
    cxx, places = _cxx(), _places()
    if shutil.which("ninja", path=places) is None:
        raise KernelBuildError(
            "ninja: PyTorch builds kernels with it; found none in PATH; run 'pip install ninja', "
            + OR_ELSE
        )
    # The compilers of a bare Mac are stubs, which open a dialog when they are called.
    program = shutil.which(shlex.split(cxx)[0]) or ""
    if sys.platform == "darwin" and program.startswith("/usr/bin/"):
        if _output(["xcode-select", "-p"]) is None:
            raise KernelBuildError(
                "compiler: kernels need a C++ compiler; found only a stub; run "
                f"'xcode-select --install', {OR_ELSE}"
            )
    name = _first_line([*shlex.split(cxx), "--version"])
    environment = {"CXX": cxx, "PATH": places, "LC_ALL": "C"}  # messages that can be searched
    if kind == "cuda":
        home, version = _nvcc()
        name = f"nvcc {version}, {name}"
        environment |= {"CUDA_HOME": home, "TORCH_CUDA_ARCH_LIST": _recipe.architectures()}
    return Tools(cxx, name, environment)


def _places() -> str:
    """PATH, and the folder of this Python's own programs: pip puts ninja there."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def _cxx() -> str:
    given = os.environ.get("CXX")
    words = shlex.split(given) if given else []
    for name in words[:1] if given else _NAMES:
        if shutil.which(name) is not None:
            return given or name
    got = f"CXX={given!r}, which is no program" if given else "none in PATH"
    raise KernelBuildError(
        f"compiler: kernels need a C++ compiler; found {got}; install g++ and ninja, {OR_ELSE}"
    )


def _nvcc() -> tuple[str, str]:
    """CUDA's folder as torch finds it, and the version of nvcc in it."""
    from torch.utils import cpp_extension

    wanted = str(torch.version.cuda)
    major, home = wanted.partition(".")[0], cpp_extension.CUDA_HOME
    program = Path(home or "", "bin", "nvcc")
    said = _output([str(program), "--version"]) if home else None
    release = re.search(r"release (\d+)\.(\d+)", said or "")
    if home is None or release is None:
        where = f"none in {home}" if home else "none"
        raise KernelBuildError(
            f"nvcc: CUDA kernels need the CUDA {major} toolkit; found {where}; install it and set "
            f"CUDA_HOME to its folder, {OR_ELSE}"
        )
    version = f"{release[1]}.{release[2]}"
    if release[1] != major:
        raise KernelBuildError(
            f"nvcc: must be of the same major version as PyTorch's CUDA {wanted}; found {version} "
            f"in {home}; set CUDA_HOME to a CUDA {major} toolkit, {OR_ELSE}"
        )
    return str(home), version


def _first_line(command: list[str]) -> str:
    lines = (_output(command) or "").strip().splitlines()
    return lines[0] if lines else "unknown"


def _output(command: list[str]) -> str | None:
    """What a command prints; None if it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None

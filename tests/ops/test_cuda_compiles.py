"""Every CUDA source compiles for the GPUs in use; needs nvcc, but neither GPU nor CUDA in torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from defectgen.errors import KernelBuildError
from defectgen.ops import _compilers, _recipe

ARCHITECTURES = ("80", "90", "100")


def cuda_home() -> Path | None:
    """Folder of the CUDA toolkit: torch tells only if it was built for CUDA itself."""
    given = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = shutil.which("nvcc")
    places = [given, found and Path(found).resolve().parents[1], "/usr/local/cuda"]
    homes = [Path(place) for place in places if place]
    parts = ("bin/nvcc", "include/cuda_runtime.h")
    return next((home for home in homes if all((home / p).is_file() for p in parts)), None)


HOME = cuda_home()
pytestmark = [
    pytest.mark.slow,  # a minute for all; CI runs it
    pytest.mark.skipif(
        HOME is None, reason="no nvcc here: install the CUDA toolkit to compile the CUDA kernels"
    ),
]
SOURCES = [path for path in _recipe.sources("cuda") if path.suffix == ".cu"]
BINDINGS = [path for path in _recipe.sources("cuda") if path.suffix == ".cpp"]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def includes() -> list[str]:
    from torch.utils.cpp_extension import include_paths

    paths = [*include_paths("cpu"), str(HOME / "include")]
    return [word for path in paths for word in ("-isystem", path)]


def nvcc(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Compile as torch.utils.cpp_extension does, with its own list of flags."""
    from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    flags = [*COMMON_NVCC_FLAGS, "--compiler-options", "-fPIC", *_recipe.device_flags()]
    flags += ["-std=c++20", "--threads=0"]
    return run(HOME / "bin" / "nvcc", *includes(), *flags, *codes, "-c", source, "-o", out)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_kernels_compile_for_every_architecture(source, tmp_path):
    done = nvcc(source, tmp_path / "kernel.o")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source", BINDINGS, ids=lambda path: path.name)
def test_bindings_compile(source, tmp_path):
    try:
        compiler = _compilers._cxx()
    except KernelBuildError as error:
        pytest.skip(str(error))
    flags = [*_recipe.host_flags("cuda"), "-fPIC"]
    done = run(compiler, *includes(), *flags, "-c", source, "-o", tmp_path / "binding.o")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_torch_switches_off_does_not_compile(tmp_path):
    # Plain nvcc takes this cast; under torch's flags it is an error, and this test must see it.
    source = tmp_path / "cast.cu"
    source.write_text("#include <cuda_fp16.h>\n__device__ float f(__half x) { return (float)x; }\n")
    done = nvcc(source, tmp_path / "cast.o")
    assert done.returncode != 0
    assert "no suitable" in done.stdout + done.stderr

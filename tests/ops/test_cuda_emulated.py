"""The CUDA kernels on the CPU, thread by thread: proof of their logic where there is no GPU.

The same sources, compiled against tests/ops/emulator/cuda_runtime.h, stand in for the CPU's kernels
in a process of its own that runs the tests of the fused kernels.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from defectgen.errors import KernelBuildError
from defectgen.ops import _compilers, _recipe

HERE = Path(__file__).parent
EMULATOR = HERE / "emulator"
TESTS = ["test_cuda.py", "test_bias_act_fused.py", "test_upfirdn2d_fused.py"]
TESTS += ["test_masked_add_fused.py", "test_modulated_conv2d_fused.py", "test_penalties.py"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The CUDA sources as a library of the CPU."""
    import torch
    from torch.utils.cpp_extension import include_paths

    try:
        compiler = _compilers._cxx()
    except KernelBuildError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("emulated")
    flags = [*_recipe.host_flags("cpu", native=False), "-O1", "-fPIC", f"-I{EMULATOR}"]
    flags += [f"-I{_recipe.CSRC}", *(f"-isystem{path}" for path in include_paths("cpu"))]
    kernels = [path for path in _recipe.sources("cuda") if path.suffix == ".cu"]
    sources = [*kernels, EMULATOR / "bind_emulated.cpp"]

    def build(source):
        out = folder / f"{source.stem}.o"
        run(compiler, *flags, "-x", "c++", "-c", source, "-o", out)
        return out

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(build, sources))
    torch_libraries = Path(torch.__file__).parent / "lib"
    linked = folder / "emulated.so"
    run(compiler, "-shared", *objects, f"-L{torch_libraries}", "-ltorch_cpu", "-lc10", "-o", linked)
    return linked


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_the_kernels_do_what_those_of_the_cpu_do(library, order):
    """In two orders of threads, of which a missing barrier would favor one."""
    root = HERE.parents[1]
    environment = os.environ | {
        "DEFECTGEN_EMULATED": str(library),
        "DEFECTGEN_KERNELS": "fused",
        "EMULATOR_ORDER": order,
        "PYTHONPATH": os.pathsep.join([str(EMULATOR), str(root)]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "emulated"]
    command += [f"tests/ops/{name}" for name in TESTS]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

"""What the native libraries are made of: sources, flags, and the key that tells builds apart."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path

import torch

from defectgen.system import WINDOWS

CSRC = Path(__file__).parent / "csrc"
#: One library per torch device type.
KINDS = ("cpu", "cuda")
#: Machine code for the processor at hand; the compiler may refuse it.
NATIVE = "-march=native"

# The stable ABI of torch 2.10, the oldest one supported: later ones load what was built for it.
_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
_HOST = ("-O3", "-std=c++17", "-fvisibility=hidden", _ABI)
# Not -ffast-math: what is not a number must stay so, training looks for it.
_MATH = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_NVCC = ("-O3", "-Xcompiler=-fvisibility=hidden", "-DUSE_CUDA", _ABI)

# What says which instructions a processor has; clock rates and the like change from read to read.
_PROCESSOR = {
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "isa", "cpu"),
}


def sources(kind: str) -> list[Path]:
    """Files that are compiled for this library, in a fixed order."""
    patterns = {"cpu": ["*_cpu.cpp"], "cuda": ["*_cuda.cu", "*_cuda.cpp"]}[kind]
    return sorted(path for pattern in patterns for path in CSRC.glob(pattern))


def host_flags(kind: str, native: bool = True) -> list[str]:
    """Flags of the C++ compiler; with ``native``, for the processor at hand (CPU library only)."""
    if kind == "cuda":
        return [*_HOST, "-DUSE_CUDA"]
    return [*_HOST, *_MATH, *([NATIVE] if native else [])]


def device_flags() -> list[str]:
    """Flags of nvcc beyond those that torch adds by itself."""
    return list(_NVCC)


def architectures() -> str:
    """GPU architectures to compile for, as in TORCH_CUDA_ARCH_LIST, which decides where it is set.

    Otherwise those of the GPUs that are visible, as far as this torch knows them, with PTX for the
    newest; empty where no GPU is visible.
    """
    given = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if given and given != "native":
        return given
    if not torch.cuda.is_available():
        return ""
    names = [int(name.removeprefix("sm_")) for name in torch.cuda.get_arch_list() if _plain(name)]
    newest = divmod(max(names), 10)
    devices = range(torch.cuda.device_count())
    found = sorted({min(torch.cuda.get_device_capability(i), newest) for i in devices})
    return ";".join(f"{major}.{minor}" for major, minor in found) + "+PTX"


def _plain(name: str) -> bool:
    return name.startswith("sm_") and name[3:].isdigit()


def key(kind: str) -> str:
    """Sixteen hex digits that change whenever an existing build would no longer fit.

    Not the compiler: an update of it, or its removal, leaves the build as good as it was.
    """
    facts = [
        *(torch.__version__, str(torch.version.cuda), platform.python_version_tuple()[:2]),
        *(platform.system(), platform.machine(), host_flags(kind)),
        *([device_flags(), architectures()] if kind == "cuda" else [_processor()]),
    ]
    digest = hashlib.sha256(json.dumps(facts).encode())
    headers = [*CSRC.glob("*.h"), *CSRC.glob("*.cuh")]
    for path in [*sources(kind), *sorted(headers)]:
        digest.update(f"\0{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> list[str]:
    """Model and instruction sets of the first processor, as far as the system tells."""
    found = [platform.processor()]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():
                    break
                name, _, value = line.partition(":")
                if name.strip() in _PROCESSOR:
                    found.append(value.strip())
    except OSError:  # a system without that file
        pass
    return found


def absent(kind: str) -> str | None:
    """Why this library cannot exist here however well the machine is set up; None if it can."""
    if WINDOWS:
        return "native kernels are not built on Windows"
    if kind == "cuda" and torch.version.cuda is None:
        return "this PyTorch has no CUDA"
    if not sources(kind):
        return f"this copy of the library has no sources for {kind}"
    if kind == "cuda" and not architectures():
        return "no GPU is visible; to build for one all the same, set TORCH_CUDA_ARCH_LIST, say 9.0"
    return None

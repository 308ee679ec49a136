"""Which implementation runs, and why: the native kernels or the reference."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from defectgen.errors import ConfigError, KernelBuildError, KernelWarning
from defectgen.ops import _build, _cache, _recipe
from defectgen.ops._library import transformed

VARIABLE = "DEFECTGEN_KERNELS"
MODES = ("auto", "reference", "fused")

_F16, _BF16, _F32, _F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
#: What the native kernels can compute at all.
DTYPES = frozenset({_F16, _BF16, _F32, _F64})
#: Dtypes in which the native kernel wins, by op and device type; others are left to the reference.
#: Fixed here: nothing is timed at run time. On a GPU an expectation, until one was at hand.
TABLE: dict[tuple[str, str], frozenset[torch.dtype]] = {
    ("bias_act", "cpu"): DTYPES,
    ("bias_act", "cuda"): DTYPES,
    ("upfirdn2d", "cpu"): DTYPES,
    ("upfirdn2d", "cuda"): DTYPES,
    ("masked_add", "cpu"): DTYPES,
    ("masked_add", "cuda"): DTYPES,
}
#: The same for an op of which the kind of processor decides; on others, where nothing was measured,
#: it is left to the reference.
PROCESSORS: dict[tuple[str, str], dict[str, frozenset[torch.dtype]]] = {
    ("convolution", "cpu"): {
        "AVX2": frozenset({_F32}),
        "avx512_bf16": frozenset({_F32, _BF16}),
    }
}

_mutex = threading.RLock()
# A plain global: torch.compile can read it, and the threads of autograd see it too.
_override: str | None = None
# What was found out, by mode and device type; a call that finds its answer here costs nothing else.
_answers: dict[tuple[str, str], bool] = {}


def mode() -> str:
    """The mode in force: that of `use_kernels`, else of DEFECTGEN_KERNELS, else "auto".

    Raises:
        ConfigError: DEFECTGEN_KERNELS holds something else.
    """
    return _checked(_wanted(), VARIABLE)


@contextmanager
def use_kernels(mode: str) -> Iterator[None]:
    """Choose the implementation inside a ``with`` block, whatever DEFECTGEN_KERNELS says.

    Holds for the whole process, so two threads must not disagree about it.

    Args:
        mode: "auto": native kernels where they can be had and win; "reference": plain PyTorch;
            "fused": native kernels wherever they exist, an error where they cannot be had.

    Raises:
        ConfigError: another mode.
    """
    global _override
    before, _override = _override, _checked(mode, "mode")
    try:
        yield
    finally:
        _override = before


def native(device_type: str) -> bool:
    """Whether native kernels run on this type of device; the first call may build them.

    Args:
        device_type: as in ``tensor.device.type``.

    Raises:
        KernelBuildError: in mode "fused", if they cannot be had.
        ConfigError: DEFECTGEN_KERNELS is no mode.
    """
    return _native(_wanted(), device_type)


def chosen(op: str, x: Tensor) -> bool:
    """Whether the native kernel of this op shall work on this tensor.

    Args:
        op: name of the op, as in `TABLE`.
        x: its features; device type and dtype decide.

    Raises:
        KernelBuildError: in mode "fused", if the kernels cannot be had.
    """
    wanted, device_type = _wanted(), x.device.type
    if not _native(wanted, device_type) or transformed():
        return False
    if wanted == "fused":
        return x.dtype in DTYPES
    kinds = PROCESSORS.get((op, device_type))
    wins = TABLE[op, device_type] if kinds is None else kinds.get(processor(), frozenset())
    return x.dtype in wins


def multiplies_bf16() -> str | None:
    """By which instructions the CPU multiplies in bfloat16: "amx_bf16", "avx512_bf16", or None."""
    # An older PyTorch does not tell what the CPU has; then nothing is assumed.
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return next((name for name in ("amx_bf16", "avx512_bf16") if known.get(name)), None)


@cache
def processor() -> str:
    """Kind of CPU: that of `multiplies_bf16`, or PyTorch's name of its vectors, as "AVX2"."""
    return multiplies_bf16() or torch.backends.cpu.get_cpu_capability()


def describe() -> list[str]:
    """Mode, and per library: its state and the reason, as lines "name: value"."""
    lines = [f"mode: {mode()}"]
    for kind in _recipe.KINDS:
        found = _build.status(kind)
        lines.append(f"{kind}: {found.state}; {found.reason}")
        lines += [f"{kind}.compiler: {found.compiler}"] if found.compiler else []
        lines += [f"{kind}.path: {found.path}"] if found.path else []
    return [*lines, f"cache: {_cache.folder()}"]


def _wanted() -> str:
    return _override or os.environ.get(VARIABLE) or "auto"


def _native(wanted: str, device_type: str) -> bool:
    known = _answers.get((wanted, device_type))
    return _find_out(wanted, device_type) if known is None else known


def _checked(value: str, name: str) -> str:
    if value not in MODES:
        raise ConfigError(f"{name}: must be one of {', '.join(MODES)}; got {value!r}; choose one")
    return value


def _find_out(wanted: str, device_type: str) -> bool:
    """Answer the first question of its kind, and keep the answer."""
    _checked(wanted, VARIABLE)
    if wanted == "reference" or device_type not in _recipe.KINDS:
        return False
    if torch.compiler.is_compiling():  # no place to start a compiler from
        return _build.is_loaded(device_type)
    with _mutex:
        known = _answers.get((wanted, device_type))
        if known is not None:  # while this thread waited
            return known
        failure = None
        try:
            _build.load(device_type)
        except KernelBuildError as error:
            if wanted == "fused":
                raise
            failure = error
        # First the answer: the warning may be an exception where somebody asked for that.
        _answers[wanted, device_type] = failure is None
    if failure is not None:
        warnings.warn(
            f"no native kernels for {device_type}, so plain PyTorch computes the same, slower "
            f"({failure})",
            KernelWarning,
            stacklevel=3,
        )
    return failure is None

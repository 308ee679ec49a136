"""Clocks, rates, FLOP and memory."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from defectgen.networks.precision import PRECISIONS, resolve_precision

ROOT = Path(__file__).resolve().parent.parent


def seconds(
    contenders: dict[str, Callable[[], object]],
    repeats: int,
    inside: dict[str, Callable[[], AbstractContextManager[Any]]] | None = None,
) -> dict[str, float]:
    """Best time of each contender, in turns, so that all meet the same state of the machine.

    Args:
        contenders: name -> function.
        repeats: turns; each contender runs once before its clock starts in every turn.
        inside: name -> context in which that contender runs.
    """
    best = dict.fromkeys(contenders, float("inf"))
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, function in contenders.items():
                context = (inside or {}).get(name, nullcontext)
                with context():
                    function()
                    began = time.perf_counter()
                    function()
                    best[name] = min(best[name], time.perf_counter() - began)
    finally:
        gc.enable()
    return best


def precisions() -> tuple[str, ...]:
    """What this processor multiplies in; bfloat16 that it only emulates is measured nowhere."""
    fast = resolve_precision("auto", torch.device("cpu"))
    return tuple(dict.fromkeys(("fp32", fast)))


def matrix_rates(repeats: int = 8) -> dict[str, float]:
    """GFLOP/s of square matrix products in each precision, the best of 1024, 2048 and 4096."""
    rates = {}
    for name in precisions():
        dtype = PRECISIONS[name] or torch.float32
        found = []
        for n in (1024, 2048, 4096):
            a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
            out = torch.empty_like(a)
            took = seconds({"mm": lambda a=a, b=b, o=out: torch.mm(a, b, out=o)}, repeats)["mm"]
            found.append(2 * n**3 / took / 1e9)
        rates[name] = max(found)
    return rates


class FlopCount(TorchDispatchMode):
    """Counts products of convolutions and matrices, two per multiplication and addition.

    Depthwise ones (the FIR filters) are left out: they are no part of the networks' nominal work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        depthwise = self._depthwise(packet, args)
        if packet is torch.ops.aten.convolution_backward and args[-2] > 1 and not depthwise:
            raise NotImplementedError(
                "gradients of grouped convolutions: PyTorch counts them once per group; count apart"
            )
        if packet in flop_registry and not depthwise:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out

    @staticmethod
    def _depthwise(packet: Any, args: tuple[Any, ...]) -> bool:
        # Not by the groups: a convolution with weights of each sample's own has these, too.
        if packet is torch.ops.aten.convolution_backward:
            return args[-2] > 1 and args[2].shape[1] == 1
        return packet is torch.ops.aten.convolution and args[-1] > 1 and args[1].shape[1] == 1


def flop(function: Callable[[], object]) -> float:
    """GFLOP of one call."""
    with FlopCount() as count:
        function()
    return count.total / 1e9


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    info = {"system": platform.platform(), "torch": torch.__version__, "cpu": platform.processor()}
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            info["cpu"] = value.strip()
        elif key.strip() == "flags":
            known = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
            info["instructions"] = sorted(known & set(value.split()))
    return {**info, "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def commit() -> str:
    """The commit of this checkout, with a mark if files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uno", "--", "defectgen", "benchmarks")
        return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("DEFECTGEN_COMMIT", "unknown")

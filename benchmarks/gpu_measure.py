"""Clocks, bandwidth, memory and names of a GPU; on a CPU the same calls, for a dry run."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch


class Clock:
    """Times functions on one device.

    Args:
        device: "cuda", "cuda:0", ... or "cpu".
        warm: calls before the first one that counts.
        repeats: calls that count; their median is the result.
        minutes: after which :attr:`late` is true, and what is not essential is left out.
    """

    def __init__(self, device: str, warm: int, repeats: int, minutes: float) -> None:
        self.device, self.warm, self.repeats = torch.device(device), warm, repeats
        self._end = time.monotonic() + 60 * minutes
        if self.device.index is not None and self.on_gpu:
            torch.cuda.set_device(self.device)

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._end

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def attempt(self, what: str, function: Callable[[], float]) -> float | None:
        """What a function measures; None, and a line on stderr, if the time is up or it fails."""
        if self.late:
            print(f"left out, no time: {what}", file=sys.stderr)
            return None
        try:
            return function()
        except RuntimeError as error:  # those of torch.compile and of CUDA are such
            print(f"failed: {what}: {str(error).splitlines()[0]}", file=sys.stderr)
            return None

    def seconds(self, function: Callable[[], object]) -> float:
        """Median time of one call, by the clock of the device."""
        for _ in range(self.warm):
            function()
        took = self._events(function) if self.on_gpu else self._ticks(function)
        return statistics.median(took)

    def _events(self, function: Callable[[], object]) -> list[float]:
        # Not waiting between the calls: the device must not wait for Python where it need not.
        pairs = []
        torch.cuda.synchronize(self.device)
        for _ in range(self.repeats):
            pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            pair[0].record()
            function()
            pair[1].record()
            pairs.append(pair)
        torch.cuda.synchronize(self.device)
        return [begin.elapsed_time(end) / 1000 for begin, end in pairs]

    def _ticks(self, function: Callable[[], object]) -> list[float]:
        took = []
        for _ in range(self.repeats):
            began = time.perf_counter()
            function()
            took.append(time.perf_counter() - began)
        return took

    def peak(self, function: Callable[[], object]) -> float:
        """GB of memory allocated at most while the function runs; 0 on a CPU."""
        if not self.on_gpu:
            function()
            return 0.0
        self.sweep()
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) / 1e9

    def sweep(self) -> None:
        """Give back memory that nobody uses any more."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def copy_rate(self, numbers: int) -> float:
        """GB/s of a copy from device to device, read and written."""
        source = torch.zeros(numbers, dtype=torch.half, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.nbytes / self.seconds(lambda: target.copy_(source)) / 1e9


def gpu(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    if device.type != "cuda":
        return {"device": "cpu", "torch": torch.__version__, "cuda": torch.version.cuda}
    facts = torch.cuda.get_device_properties(device)
    return {
        "device": facts.name,
        "memory_gb": round(facts.total_memory / 1e9, 1),
        "multiprocessors": facts.multi_processor_count,
        "capability": f"{facts.major}.{facts.minor}",
        "driver": driver(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "matrices": torch.backends.cuda.matmul.allow_tf32,
        },
    }


def driver() -> str:
    """Version of the driver, as its own tool tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.split()[0] if done.stdout.split() else "unknown"


def slug(name: str) -> str:
    """A device's name as part of a file's name."""
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "-".join(words)

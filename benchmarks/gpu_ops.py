"""Single operators on a GPU: native kernel, reference, and the reference compiled, in GB/s.

The bytes of an operator are those that it must read and write at least once; small tensors are not
counted. Whoever makes more passes over memory has a lower rate.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_measure import Clock
from defectgen.ops import bias_act, downsample2d, masked_add, upfirdn2d, upsample2d
from defectgen.ops._dispatch import use_kernels
from defectgen.ops.bias_act import _backward_kernel as bias_act_backward
from defectgen.ops.masked_add import SURROGATE_STEEPNESS
from defectgen.ops.masked_add import _backward_kernel as masked_add_backward
from defectgen.ops.upfirdn2d import binomial_filter, upfirdn2d_bias_act

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
#: The dtype whose reference is compiled, too: each compilation takes seconds.
COMPILED = "bf16"


@dataclass(frozen=True)
class Work:
    """One operator on given tensors.

    Attributes:
        name: in the table.
        bytes: read and written at least.
        fused: by the native kernel.
        plain: by PyTorch's own operators.
    """

    name: str
    bytes: float
    fused: Callable[[], object]
    plain: Callable[[], object]


@dataclass(frozen=True)
class Features:
    """Draws tensors of one dtype, channels last."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    channels: int
    side: int

    def draw(self, side: int | None = None) -> Tensor:
        """(N, C, S, S)."""
        side = self.side if side is None else side
        shape, last = (self.batch, self.channels, side, side), torch.channels_last
        x = torch.empty(shape, dtype=self.dtype, device=self.device, memory_format=last)
        return x.normal_()

    def small(self, *shape: int) -> Tensor:
        """Of any shape, float32."""
        return torch.randn(shape, device=self.device)

    def terms(self) -> dict[str, Any]:
        """What bias_act takes beside features."""
        n, c, s = self.batch, self.channels, self.side
        return {
            "scale": self.small(n, c),
            "noise": self.small(n, 1, s, s),
            "bias": self.small(c),
            "act": "lrelu",
            "clamp": 256.0,
        }


def _same(name: str, size: float, call: Callable[[], object]) -> Work:
    """Both sides are the public function, in another mode."""
    return Work(name, size, call, call)


def works(f: Features) -> Iterator[Work]:
    """All operators; the tensors of one are gone before those of the next are drawn."""
    x = f.draw()
    size, terms = x.nbytes, f.terms()
    yield _same("bias_act", 2 * size, lambda: bias_act(x, **terms))
    yield _backward_of_bias_act(f, x)
    yield from _filters(f)
    yield from _gates(f, x)


def _backward_of_bias_act(f: Features, x: Tensor) -> Work:
    y, dy, scale = f.draw(), f.draw(), f.small(f.batch, f.channels)
    given = (dy, y, x, scale, True, True, 0.2, 2.0**0.5, 256.0)
    return Work(
        "bias_act, backward with all sums",
        4 * x.nbytes,
        lambda: torch.ops.defectgen.bias_act_backward(*given),
        lambda: bias_act_backward(*given),
    )


def _filters(f: Features) -> Iterator[Work]:
    taps = binomial_filter(f.device, torch.float32)
    large, pad = f.draw(f.side + 2), (1, 0, 1, 0)  # as a transposed convolution leaves them
    whole, terms = f.draw(), f.terms()
    size = large.nbytes + whole.nbytes
    yield _same("upfirdn2d, 4 taps", size, lambda: upfirdn2d(large, taps, pad=pad, gain=4.0))
    yield _same(
        "upfirdn2d, 4 taps, then bias_act",
        size,
        lambda: upfirdn2d_bias_act(large, taps, pad=pad, filter_gain=4.0, **terms),
    )
    half = f.draw(f.side // 2)
    size = whole.nbytes + half.nbytes
    yield _same("upfirdn2d, up 2", size, lambda: upsample2d(half))
    yield _same("upfirdn2d, down 2", size, lambda: downsample2d(whole))


def _gates(f: Features, x: Tensor) -> Iterator[Work]:
    r, m = f.draw(), f.small(f.batch, 1, f.side // 4, f.side // 4)
    level = upsample2d(upsample2d(m)).contiguous()
    gate = (level >= 0).to(torch.uint8)
    share = float(gate.float().mean())  # of the residuals, which need not be read elsewhere
    yield _same("masked_add", (2 + share) * x.nbytes, lambda: masked_add(x, r, m))
    given = (x, gate, r, level, None, SURROGATE_STEEPNESS)
    yield Work(
        "masked_add, backward with logits",
        3 * x.nbytes,
        lambda: torch.ops.defectgen.masked_add_backward(*given),
        lambda: masked_add_backward(*given),
    )


def forget() -> None:
    """Begin anew with torch.compile, and let it see as many shapes of a layer as there are."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64


def seconds_compiled(clock: Clock, call: Callable[[], object], tiny: bool) -> float:
    """Time of a function under torch.compile; in a dry run it is traced only."""
    forget()
    backend = "aot_eager" if tiny else "inductor"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dynamo, about cached functions
        return clock.seconds(torch.compile(call, dynamic=False, backend=backend))


def inside(mode: str, gpu: bool) -> AbstractContextManager[None]:
    """Mode of the kernels; a dry run on a CPU does not insist on native ones."""
    return use_kernels("auto" if mode == "fused" and not gpu else mode)


@torch.no_grad()
def measure(clock: Clock, tiny: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Dtype -> operator -> contender -> GB/s; "seconds" is that of the native kernel."""
    batch, channels, side = (1, 8, 8) if tiny else (64, 64, 256)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, dtype in DTYPES.items():
        found[name] = {}
        for work in works(Features(clock.device, dtype, batch, channels, side)):
            line: dict[str, float] = {}
            with inside("fused", clock.on_gpu):
                line["seconds"] = clock.seconds(work.fused)
            line["fused"] = work.bytes / line["seconds"] / 1e9
            with use_kernels("reference"):
                line["reference"] = work.bytes / clock.seconds(work.plain) / 1e9
                if name == COMPILED:
                    took = clock.attempt(
                        f"{work.name}, compiled",
                        lambda call=work.plain: seconds_compiled(clock, call, tiny),
                    )
                    line |= {"compiled": work.bytes / took / 1e9} if took else {}
            found[name][work.name] = line
        clock.sweep()
    return found

"""Randomness as an argument: seeds become CPU generators, one per sample and purpose.

Nothing in the library touches the global state of torch or numpy. A sample is a function of its
own seed: latents and noise planes are drawn on the CPU from a generator that knows the seed and
the name of what is drawn, so neither the batch size, nor the device, nor the order of calls can
change them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

#: Seeds are non-negative and below this bound, so that they survive JSON and every integer type.
SEED_LIMIT = 2**63


def fresh_seed() -> int:
    """Return a seed below 2**31 from the operating system (never from a global generator)."""
    return int.from_bytes(os.urandom(4), "little") >> 1


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """Return a CPU generator for (seed, stream); equal arguments give equal numbers for ever.

    The pair is hashed, so streams of one seed, and neighboring seeds, are unrelated.
    """
    text = "/".join([str(seed), *map(str, stream)])
    # The name of a file may be no text.
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()
    result = torch.Generator(device="cpu")
    result.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return result


def sample_seeds(n: int, seed: int) -> Sequence[int]:
    """Seeds of n samples: the first k are the same for every n >= k; a range takes no memory."""
    if seed + n <= SEED_LIMIT:
        return range(seed, seed + n)
    return tuple((seed + index) % SEED_LIMIT for index in range(n))


def latents(seeds: Sequence[int], dim: int, stream: str) -> Tensor:
    """Standard normal latents, (len(seeds), dim) float32 on CPU; row i depends on seeds[i] only."""
    rows = [torch.randn(dim, generator=generator(seed, stream)) for seed in seeds]
    return torch.stack(rows) if rows else torch.zeros(0, dim)


class Noise(Protocol):
    """Source of the noise planes of the synthesis layers (StyleGAN2, section 2)."""

    def __call__(self, layer: str, batch: int, resolution: int) -> Tensor | None:
        """Return (batch, 1, resolution, resolution) standard normal values, or None for none."""
        ...


class SampleNoise:
    """Noise of the samples with these seeds: plane = f(seed, layer name, resolution)."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)

    def __call__(self, layer: str, batch: int, resolution: int) -> Tensor:
        """Return the planes of this layer; calling twice gives the same ones."""
        if batch != len(self.seeds):
            raise ValueError(f"batch: one row per seed; got {batch} for {len(self.seeds)} seeds")
        size = (1, resolution, resolution)
        planes = [torch.randn(size, generator=generator(s, "noise", layer)) for s in self.seeds]
        return torch.stack(planes) if planes else torch.zeros(0, *size)


class ConstantNoise:
    """The same plane for every sample ("const" mode: the picture depends on the latents only)."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, layer: str, batch: int, resolution: int) -> Tensor:
        """Return one plane, repeated for the batch."""
        size = (1, 1, resolution, resolution)
        plane = torch.randn(size, generator=generator(self.seed, "constant noise", layer))
        return plane.expand(batch, -1, -1, -1)


class GeneratorNoise:
    """Fresh noise for training, drawn from the training generator on its own device.

    With ``keep`` the planes of a layer are drawn once and returned again at the next call, so that
    two renders (mode seeking) differ by their latents only.
    """

    def __init__(self, source: torch.Generator, *, keep: bool = False) -> None:
        self.source = source
        self._kept: dict[tuple[str, int, int], Tensor] | None = {} if keep else None

    def __call__(self, layer: str, batch: int, resolution: int) -> Tensor:
        """Return fresh planes, or the kept ones."""
        key = (layer, batch, resolution)
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        size = (batch, 1, resolution, resolution)
        planes = torch.randn(size, generator=self.source, device=self.source.device)
        if self._kept is not None:
            self._kept[key] = planes
        return planes


class FirstRows:
    """The first rows of the planes that another source draws for a larger batch."""

    def __init__(self, source: GeneratorNoise, batch: int, rows: int) -> None:
        self.source, self.batch, self.rows = source, batch, rows

    def __call__(self, layer: str, batch: int, resolution: int) -> Tensor:
        """Return (rows, 1, r, r) of the planes for the larger batch."""
        return self.source(layer, self.batch, resolution)[: self.rows]


def no_noise(layer: str, batch: int, resolution: int) -> None:
    """Noise source of the "none" mode."""
    return None

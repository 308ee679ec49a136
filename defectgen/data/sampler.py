"""The order in which training sees its images: shuffled epochs, endless, without state."""

from __future__ import annotations

import torch
from torch import Tensor

from defectgen.checks import check_range
from defectgen.rng import generator


class InfiniteSampler:
    """Draw batches of indices from shuffled epochs that follow each other without a gap.

    The batch of an iteration depends on the arguments and on its number alone, so that a resumed
    run needs to remember nothing but the iteration. Epoch e is a random order of all n images,
    drawn from a stream of its own; iteration i takes the positions i * batch_size and following.
    Every image is thus seen equally often, and a batch may be larger than n.

    Args:
        n: Number of images, at least 1.
        batch_size: Indices per iteration, at least 1.
        seed: The seed of all epochs.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        check_range("n", n, low=1, integer=True)
        check_range("batch_size", batch_size, low=1, integer=True)
        self.n = int(n)
        self.batch_size = int(batch_size)
        self.seed = seed

    def indices(self, iteration: int) -> Tensor:
        """Return the images of one iteration.

        Args:
            iteration: From 0 upwards.

        Returns:
            (batch_size,) int64 in [0, n), on the CPU.

        Raises:
            ConfigError: `iteration` is negative or no integer.
        """
        check_range("iteration", iteration, low=0, integer=True)
        first = int(iteration) * self.batch_size
        last = first + self.batch_size - 1
        epochs = range(first // self.n, last // self.n + 1)
        order = torch.cat([self._epoch(epoch) for epoch in epochs])
        start = first - epochs.start * self.n
        return order[start : start + self.batch_size].clone()

    def _epoch(self, epoch: int) -> Tensor:
        return torch.randperm(self.n, generator=generator(self.seed, "sampler", epoch))

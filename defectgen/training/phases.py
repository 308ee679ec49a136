"""Phases as records: what is optimized, how often, in which part of the run, by which loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """Real data of one iteration, on the training device.

    Attributes:
        images: (N, C, R, R) in [-1, 1].
        index: (N,) positions in the training set, the keys of learned codes.
        masks: bool (N, 1, R, R), or None when training a backbone.
    """

    images: Tensor
    index: Tensor
    masks: Tensor | None = None

    @property
    def defects(self) -> Tensor:
        """The masks of a batch that has them.

        Raises:
            TypeError: for a batch of good images.
        """
        if self.masks is None:
            raise TypeError("defects: a batch with masks; got one of good images; pass masks.")
        return self.masks


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One optimization step of an iteration.

    Attributes:
        name: shown in logs.
        optimizers: names of the optimizers that step.
        loss: batch -> (loss, scalars to log). It must not write anything but running statistics.
        interval: run every so many iterations; the loss is multiplied by it (lazy regularization,
            StyleGAN2, section 3.1).
        first: the phase is silent before this many images were shown.
        last: and from this many on; None for never.
    """

    name: str
    optimizers: tuple[str, ...]
    loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
    interval: int = 1
    first: int = 0
    last: int | None = None

    def due(self, iteration: int, images: int) -> bool:
        """Whether the phase runs in this iteration."""
        inside = images >= self.first and (self.last is None or images < self.last)
        return inside and iteration % self.interval == 0


def lazy_phase(
    name: str,
    optimizer: str,
    loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]],
    interval: int,
    first: int,
) -> list[Phase]:
    """A lazy regularization term as a list of one phase; of none if its interval is 0."""
    if not interval:
        return []
    return [Phase(name=name, optimizers=(optimizer,), loss=loss, interval=interval, first=first)]


def lazy_adam(
    parameters: Iterable[nn.Parameter], *, rate: float, beta2: float, interval: int
) -> torch.optim.Adam:
    """Adam(0, beta2) corrected for a regularization term every ``interval`` iterations.

    With c = k / (k + 1), rate and betas become c * rate and beta ** c, so that the extra steps do
    not add up (StyleGAN2, appendix B). Interval 0 means no such term, c = 1.
    """
    c = interval / (interval + 1) if interval else 1.0
    return torch.optim.Adam(parameters, lr=c * rate, betas=(0.0, beta2**c), eps=1e-8, foreach=True)


def warm_adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Adam:
    """Adam(0.9, 0.99) of the reconstruction phases, where no opponent moves and momentum helps."""
    return torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99), foreach=True)

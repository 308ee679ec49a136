"""Augmentation in front of a discriminator, and the probability that adapts to its overfitting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import overload

import torch
from torch import Tensor, nn

from defectgen.augment.color import apply_color, check_channels, draw_color_matrices
from defectgen.augment.geometry import draw_matrices
from defectgen.augment.policy import AugmentPolicy
from defectgen.augment.warp import warp, warp_mask
from defectgen.checks import check_range
from defectgen.errors import ImageError, MaskError, WeightsError


class AugmentPipe(nn.Module):
    """Transform images, and their masks alike, at random (Karras et al. 2020, figure 2a).

    Has no parameters. Real and generated images go through it alike, so the generator learns the
    untransformed distribution as long as p stays clearly below 1.

    Args:
        policy: Which operations may happen.
    """

    def __init__(self, policy: AugmentPolicy) -> None:
        super().__init__()
        self.policy = policy

    def extra_repr(self) -> str:
        """Name the active operations."""
        return ", ".join(name for name, on in self.policy.to_dict().items() if on) or "nothing"

    @overload
    def __call__(
        self, images: Tensor, *, p: float, generator: torch.Generator, masks: None = None
    ) -> Tensor: ...

    @overload
    def __call__(
        self, images: Tensor, *, p: float, generator: torch.Generator, masks: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def __call__(
        self,
        images: Tensor,
        *,
        p: float,
        generator: torch.Generator,
        masks: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run `forward`; declared for its two return types."""
        out: Tensor | tuple[Tensor, Tensor] = super().__call__(
            images, p=p, generator=generator, masks=masks
        )
        return out

    def forward(
        self,
        images: Tensor,  # (N, C, S, S)
        *,
        p: float,
        generator: torch.Generator,
        masks: Tensor | None = None,  # (N, 1, S, S)
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: (N, C, S, S) floating, nominally in [-1, 1], C 1 or 3, any device.
            p: Probability of each operation per image, at least 0; 1 or more means always.
            generator: Source of randomness, on any device. What it yields depends on N only, never
                on p or the policy, so that runs stay comparable.
            masks: (N, 1, S, S) floating in [-1, 1]; they move with their images, and their values
                are not recolored.

        Returns:
            Images of the same shape and dtype, not clamped, and the masks if some were given. With
            p = 0 both come back unchanged.

        Raises:
            ConfigError: p is negative or not a number.
            ImageError: the images are not square, or have a channel count other than 1 or 3.
            MaskError: the masks do not fit the images.
        """
        check_range("p", p, low=0)
        _check_images(images)
        if masks is not None:
            _check_masks(masks, images)
        n, channels, size, _ = images.shape
        policy = self.policy
        # Positions in half precision would be off by pixels, so no autocast here.
        with torch.autocast(images.device.type, enabled=False):
            matrices = draw_matrices(policy, n, size, p=p, generator=generator)
            colors = draw_color_matrices(policy, n, p=p, generator=generator, channels=channels)
            if p > 0:
                images = apply_color(warp(images, matrices), colors)
                masks = None if masks is None else warp_mask(masks, matrices)
        return images if masks is None else (images, masks)


def _check_images(images: Tensor) -> None:
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[2] != shape[3] or shape[2] < 2:
        raise ImageError(
            f"images: must be a batch (N, C, S, S) of square images; got shape {shape}; "
            "crop or resize them first"
        )
    if not images.is_floating_point():
        raise ImageError(
            f"images: must be floating point in [-1, 1]; got {images.dtype}; scale them first"
        )
    check_channels(shape[1])


def _check_masks(masks: Tensor, images: Tensor) -> None:
    expected = (images.shape[0], 1, *images.shape[2:])
    if tuple(masks.shape) != expected or not masks.is_floating_point():
        raise MaskError(
            f"masks: must be floating point of shape {expected} to go with the images; got "
            f"{masks.dtype} of shape {tuple(masks.shape)}; pass one mask in [-1, 1] per image"
        )


@dataclass
class AdaptiveProbability:
    """The augmentation probability p and the rule that moves it (Karras et al. 2020, section 3).

    r_t, the mean sign of the discriminator's output on real images, rises towards 1 as it learns
    the training set by heart. p climbs while r_t is above the target and falls while it is below.

    Attributes:
        p: The probability.
        target: The r_t to hold.
        ada_kimg: Thousands of images in which p may go from 0 to 1.
        cap: Largest p, or None for no cap, as published. Near 1 the augmentations leak: if every
            image is turned, nobody can tell which way up is right.
    """

    p: float = 0.0
    target: float = 0.6
    ada_kimg: float = 500.0
    cap: float | None = 0.8
    _last: float = field(default=0.0, init=False, repr=False)
    _signs: Tensor | float = field(default=0.0, init=False, repr=False)
    _count: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_range("p", self.p, low=0)
        check_range("target", self.target, low=-1, high=1)
        check_range("ada_kimg", self.ada_kimg, low=1e-6)
        if self.cap is not None:
            check_range("cap", self.cap, low=0)
        self.p = self._clamp(self.p)

    def _clamp(self, p: float) -> float:
        return max(0.0, p if self.cap is None else min(p, self.cap))

    @property
    def r_t(self) -> float:
        """Mean sign since the last update, or what it was at that update if nothing came since."""
        return float(self._signs) / self._count if self._count else self._last

    def accumulate(self, real_logits: Tensor) -> None:
        """Count the signs of the discriminator's outputs on real images, of any shape."""
        # Stays on its device: fetching the number would wait for the accelerator at every step.
        self._signs = real_logits.detach().float().sign().sum() + self._signs
        self._count += real_logits.numel()

    def update(self, images: int) -> float:
        """Move p by one step and forget the collected signs.

        Args:
            images: Images shown since the last update: batch size times the interval.

        Returns:
            The new p; unchanged if no outputs were collected.
        """
        if self._count:
            self._last = self.r_t
            direction = (self._last > self.target) - (self._last < self.target)
            self.p = self._clamp(self.p + direction * images / (self.ada_kimg * 1000))
            self._signs, self._count = 0.0, 0
        return self.p

    def state_dict(self) -> dict[str, float]:
        """Return all that changes during training, as plain numbers."""
        return {
            "p": self.p,
            "r_t": self._last,
            "sign_sum": float(self._signs),
            "sign_count": float(self._count),
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from `state_dict`; p is held below the cap of this object.

        Raises:
            WeightsError: a number is missing or unknown.
        """
        expected = sorted(self.state_dict())
        if sorted(state) != expected:
            raise WeightsError(
                f"augmentation state: must have exactly {expected}; got {sorted(state)}; "
                "resume with the version that wrote the file"
            )
        self.p = self._clamp(float(state["p"]))
        self._last = float(state["r_t"])
        self._signs = float(state["sign_sum"])
        self._count = int(state["sign_count"])

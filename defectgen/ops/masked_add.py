"""The defect-aware gate: residual features enter only where the mask says defect."""

from __future__ import annotations

import torch
from torch import Tensor

from defectgen.errors import ConfigError
from defectgen.ops.upfirdn2d import upsample2d

#: Steepness of the sigmoid whose slope stands in for the step of the straight-through gate.
SURROGATE_STEEPNESS = 2.0


def upsample_logits(logits: Tensor, resolution: int) -> Tensor:
    """Double mask logits (N, 1, r, r) until they have ``resolution``: the published mask path."""
    while logits.shape[-1] < resolution:
        logits = upsample2d(logits)
    return logits


def masked_add(
    x: Tensor,  # (N, C, H, W)
    residual: Tensor,  # (N, C, H, W)
    logits: Tensor,  # (N, 1, h, w), h = H / 2^k
    *,
    mode: str = "hard",
    within: Tensor | None = None,  # (N, 1, H, W) bool
) -> Tensor:
    """x + 1[logits >= 0] * residual, the logits upsampled to the size of ``x`` on the fly.

    Args:
        x: (N, C, H, W), features of the backbone block.
        residual: (N, C, H, W), features of the defect block.
        logits: (N, 1, h, w) mask logits of this or a lower power-of-two resolution.
        mode: "hard" gives no gradient to the logits. "straight_through" gives them the gradient
            of x + sigmoid(k * logits) * residual with k = 2, while the value stays that of the
            hard gate; the gradient to the residual stays that of the hard gate in both modes.
        within: bool (N, 1, H, W); where False the gate stays closed whatever the logits say.

    Returns:
        (N, C, H, W), dtype of ``x``.

    Raises:
        ConfigError: for shapes that do not fit or an unknown mode.

    Source: DFMGAN (Duan et al. 2023), defect-aware feature manipulation; straight-through:
    Bengio et al. 2013, with the slope of a sigmoid.
    """
    if x.shape != residual.shape:
        raise ConfigError(
            f"residual: the shape of x {tuple(x.shape)}; got {tuple(residual.shape)}; "
            "use a block of this resolution."
        )
    side, small = x.shape[-1], logits.shape[-1]
    factor = side // max(small, 1)
    fits = logits.shape == (x.shape[0], 1, x.shape[2] // max(factor, 1), small)
    if not fits or small * factor != side or factor & (factor - 1):
        raise ConfigError(
            f"logits: (N, 1, h, w) with N of x and h, w smaller by a power of two than "
            f"{tuple(x.shape)}; got {tuple(logits.shape)}; pass the logits of this or a lower "
            "resolution."
        )
    if within is not None and (
        within.shape != (x.shape[0], 1, *x.shape[2:]) or within.is_floating_point()
    ):
        raise ConfigError(
            f"within: bool {(x.shape[0], 1, *x.shape[2:])}; got {within.dtype} "
            f"{tuple(within.shape)}; pass one cell per pixel of x."
        )
    if mode not in ("hard", "straight_through"):
        raise ConfigError(f"mode: hard or straight_through; got {mode!r}; choose one of these.")
    return _reference(x, residual, logits, mode, within)


def _reference(
    x: Tensor, residual: Tensor, logits: Tensor, mode: str, within: Tensor | None
) -> Tensor:
    logits = upsample_logits(logits, x.shape[-1])
    gate = logits >= 0
    if within is not None:
        gate = gate & within
    gated: Tensor
    if mode == "hard":
        gated = residual * gate.to(x.dtype)
    else:
        # Where a gate is forced shut its logit has no influence, so it gets no gradient either.
        free = torch.ones_like(gate) if within is None else within
        gated = _straight_through(residual, logits, gate, free)
    return x + gated


def _straight_through(residual: Tensor, logits: Tensor, gate: Tensor, free: Tensor) -> Tensor:
    """Value gate * residual; slope towards the logits as if the gate were sigmoid(k * logits)."""
    hard = residual * gate.to(residual.dtype)
    soft = torch.sigmoid(SURROGATE_STEEPNESS * logits) * free.to(logits.dtype)
    # soft - soft.detach() is zero in value, and its derivative is that of the sigmoid.
    slope = (soft - soft.detach()).to(residual.dtype)
    return hard + residual.detach() * slope

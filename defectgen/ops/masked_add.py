"""The defect-aware gate: residual features enter only where the mask says defect."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from defectgen.errors import ConfigError
from defectgen.ops import _dispatch
from defectgen.ops._library import define, differentiate, exact, like, remembered
from defectgen.ops.upfirdn2d import upsample2d

#: Steepness of the sigmoid whose slope stands in for the step of the straight-through gate.
SURROGATE_STEEPNESS = 2.0
#: Entries per row of the table by which logits are upsampled on the fly.
TABLE_TAPS = 4


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
    side, little = x.shape[-1], logits.shape[-1]
    factor = side // max(little, 1)
    fits = logits.ndim == 4 and logits.shape[:2] == (x.shape[0], 1)
    sides = [size * factor for size in logits.shape[2:]]
    if not fits or sides != list(x.shape[2:]) or factor & (factor - 1):
        raise ConfigError(
            f"logits: (N, 1, h, w) with N of x and h, w smaller by a power of two than "
            f"{tuple(x.shape)}; got {tuple(logits.shape)}; pass the logits of this or a lower "
            "resolution."
        )
    if within is not None and (
        within.shape != (x.shape[0], 1, *x.shape[2:]) or within.dtype != torch.bool
    ):
        raise ConfigError(
            f"within: bool {(x.shape[0], 1, *x.shape[2:])}; got {within.dtype} "
            f"{tuple(within.shape)}; pass one cell per pixel of x."
        )
    if mode not in ("hard", "straight_through"):
        raise ConfigError(f"mode: hard or straight_through; got {mode!r}; choose one of these.")
    if mode == "hard":
        logits = logits.detach()
    if _dispatch.chosen("masked_add", x) and x.dtype == residual.dtype:
        m = logits.to(exact(x.dtype))
        rows = _table(logits.shape[2], factor, m.device, m.dtype)
        columns = _table(little, factor, m.device, m.dtype)
        straight = mode == "straight_through"
        result: Tensor = _op(x, residual, m, *rows, *columns, within, straight)[0]
        return result
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


# -- upsampling as a table -------------------------------------------------------------------------


@remembered
def _upsampling(size: int, factor: int) -> Tensor:
    """Matrix (size * factor, size) of repeated doubling along one axis, float64 on the CPU.

    One doubling gives output 2i the weights 1/4, 3/4 of inputs i - 1 and i, output 2i + 1 the
    weights 3/4, 1/4 of i and i + 1: zero insertion and [1, 3, 3, 1] / 4; zeros lie beyond the ends.
    """
    with torch.inference_mode(False):
        matrix = torch.eye(size, dtype=torch.float64, device="cpu")
        while len(matrix) < size * factor:
            before = torch.cat([torch.zeros_like(matrix[:1]), matrix[:-1]])
            after = torch.cat([matrix[1:], torch.zeros_like(matrix[:1])])
            even, odd = 0.75 * matrix + 0.25 * before, 0.75 * matrix + 0.25 * after
            matrix = torch.stack([even, odd], dim=1).flatten(0, 1)
        return matrix


@remembered
def _table(
    size: int, factor: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """First logit (R,) int32 and weights (R, TABLE_TAPS) of every output along one axis.

    However often the size is doubled, an output is a mean of at most three neighbors.
    """
    matrix = _upsampling(size, factor)
    with torch.inference_mode(False):
        first = (matrix != 0).to(torch.uint8).argmax(dim=1)
        padded = torch.nn.functional.pad(matrix, (0, TABLE_TAPS))
        weights = padded.gather(1, first[:, None] + torch.arange(TABLE_TAPS, device="cpu"))
        return first.int().to(device), weights.to(device, dtype).contiguous()


# -- the op and its derivatives --------------------------------------------------------------------


def _matrix(first: Tensor, weights: Tensor, size: int) -> Tensor:
    """The table as a matrix (R, size)."""
    places = first.long()[:, None] + torch.arange(TABLE_TAPS, device=first.device)
    wide = weights.new_zeros(len(first), size + TABLE_TAPS)
    return wide.scatter(1, places, weights)[:, :size]


def _apply(first: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    """Table times the last axis: (..., size) -> (..., R)."""
    padded = torch.nn.functional.pad(values, (0, TABLE_TAPS))
    index = first.long()[:, None] + torch.arange(TABLE_TAPS, device=first.device)
    return (padded[..., index] * weights).sum(-1)


def _forward_kernel(
    x: Tensor,
    residual: Tensor,
    logits: Tensor,
    first_row: Tensor,
    row_weights: Tensor,
    first_column: Tensor,
    column_weights: Tensor,
    within: Tensor | None,
    straight_through: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    by_row = _apply(first_row, row_weights, logits.mT).mT
    level = _apply(first_column, column_weights, by_row).contiguous()
    gate = level >= 0 if within is None else (level >= 0) & within
    out = like(torch.where(gate, x + residual, x), x)
    return out, level, gate.to(torch.uint8)


def _forward_fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    plane = x.new_empty((x.shape[0], 1, *x.shape[2:]), dtype=exact(x.dtype))
    return like(torch.empty_like(x), x), plane, plane.new_empty(plane.shape, dtype=torch.uint8)


def _surrogate(level: Tensor, within: Tensor | None, steepness: float) -> Tensor:
    """Derivative of sigmoid(steepness * level), zero where the gate is forced shut."""
    soft = torch.sigmoid(steepness * level)
    slope = steepness * soft * (1 - soft)
    return slope if within is None else slope * within


def _backward_kernel(
    dy: Tensor,
    gate: Tensor,
    residual: Tensor | None,
    level: Tensor | None,
    within: Tensor | None,
    steepness: float,
) -> tuple[Tensor, Tensor]:
    dresidual = like(dy * gate, dy)
    if residual is None or level is None:
        return dresidual, _no_level(dy)
    inner = (dy.to(level.dtype) * residual).sum(1, keepdim=True)
    return dresidual, inner * _surrogate(level, within, steepness)


def _no_level(dy: Tensor) -> Tensor:
    return dy.new_empty((0, 1, *dy.shape[2:]), dtype=exact(dy.dtype))


def _backward_fake(
    dy: Tensor, gate: Tensor, residual: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    batch = 0 if residual is None else dy.shape[0]
    return like(torch.empty_like(dy), dy), _no_level(dy).new_empty(batch, 1, *dy.shape[2:])


_forward_op = define(
    "masked_add(Tensor x, Tensor residual, Tensor logits, Tensor first_row, Tensor row_weights, "
    "Tensor first_column, Tensor column_weights, Tensor? within, bool straight_through) "
    "-> (Tensor, Tensor, Tensor)",
    _forward_kernel,
    _forward_fake,
)
_backward_op = define(
    "masked_add_backward(Tensor dy, Tensor gate, Tensor? residual, Tensor? level, "
    "Tensor? within, float steepness) -> (Tensor, Tensor)",
    _backward_kernel,
    _backward_fake,
)


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, residual, logits, *tables, within, straight = inputs
    _, level, gate = output
    ctx.mark_non_differentiable(level, gate)
    ctx.soft = straight and ctx.needs_input_grad[2]
    kept = (residual, logits, within, *tables) if ctx.soft else (None,) * 7
    ctx.save_for_backward(gate, *kept)


def _forward_gradients(ctx: Any, dy: Tensor | None, *others: Any) -> tuple[Any, ...]:
    if dy is None:
        return (None,) * 9
    gate, residual, logits, within, *tables = ctx.saved_tensors
    if not ctx.soft:
        dresidual, _ = _backward(dy, gate, None, None, None, SURROGATE_STEEPNESS)
        return dy, dresidual, *(None,) * 7
    rows = _matrix(tables[0], tables[1], logits.shape[2])
    columns = _matrix(tables[2], tables[3], logits.shape[3])
    # Upsampled once more, as a product of small matrices that can be differentiated again.
    level = rows @ logits @ columns.t()
    dresidual, dlevel = _backward(dy, gate, residual, level, within, SURROGATE_STEEPNESS)
    dlogits = rows.t() @ dlevel @ columns
    return dy, dresidual, dlogits, *(None,) * 6


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    dy, gate, residual, level, within, steepness = inputs
    ctx.save_for_backward(dy, gate, residual, level, within)
    ctx.steepness = steepness


def _backward_gradients(
    ctx: Any, g_residual: Tensor | None, g_level: Tensor | None
) -> tuple[Any, ...]:
    dy, gate, residual, level, within = ctx.saved_tensors
    to_dy = to_level = None
    if g_residual is not None:
        to_dy = _backward(g_residual, gate, None, None, None, ctx.steepness)[0]
    if g_level is not None and residual is not None:
        slope = _surrogate(level, within, ctx.steepness)
        # No gradient to the residual: the reference detaches it where the surrogate uses it.
        more = residual * (g_level * slope).to(residual.dtype)
        to_dy = more if to_dy is None else to_dy + more
        inner = (dy.to(level.dtype) * residual).sum(1, keepdim=True)
        to_level = g_level * inner * slope * (1 - 2 * torch.sigmoid(ctx.steepness * level))
        to_level = to_level * ctx.steepness
    return to_dy, None, None, to_level, None, None


_op = differentiate(_forward_op, _forward_gradients, _keep_forward)
_backward = differentiate(_backward_op, _backward_gradients, _keep_backward)

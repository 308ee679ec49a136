"""The band-limited warp that executes the geometric augmentations of ADA, for images and masks.

Legend: N batch, C channels, H, W pixels, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Low-pass of the sym6 wavelet (Daubechies, "Ten Lectures on Wavelets", table 6.3), sum sqrt(2).
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
_CENTER = 5  # the tap taken as the middle: the largest one
# sym6 is not quite symmetric: its center of mass lies beside that tap, which would shift mirrored
# or turned images by a fifth of a pixel. The warp subtracts this delay on both sides.
_DELAY = sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6) - _CENTER


def warp(
    images: Tensor,  # (N, C, H, W) floating
    matrices: Tensor,  # (N, 3, 3) float32
    fields: Tensor | None = None,  # (N, 2, k, k)
) -> Tensor:
    """Resample each image through its own affine map, bent by a field, without aliasing.

    Twofold upsampling with the sym6 low-pass, bilinear sampling on the fine grid, twofold
    downsampling with the mirrored filter. Beyond its border the image is continued by reflection
    without end, so no draw can bring empty pixels in. The result is linear in the images and can be
    differentiated twice; images whose matrix is the identity come back bit for bit.

    Args:
        images: (N, C, H, W) floating, any range, any device.
        matrices: (N, 3, 3) from `geometry.draw_matrices`, any device. On the CPU they
            also save work: only the images that move are resampled.
        fields: what bends the result: shifts in x and y at k x k points, in pixels, cubic in
            between, on the device of the matrices. One resampling does both: a second one would
            blur what the first has kept.

    Returns:
        (N, C, H, W), same dtype and device; `images` itself where CPU matrices are all identities.
    """
    return _where_moved(images, matrices, fields, _resample)


def warp_mask(
    masks: Tensor,  # (N, 1, H, W) floating in [-1, 1]
    matrices: Tensor,  # (N, 3, 3) float32
    fields: Tensor | None = None,  # (N, 2, k, k)
) -> Tensor:
    """Resample soft masks through the same maps as their images.

    Bilinear only: the low-pass of `warp` rings at edges, and a mask has to stay within [-1, 1].
    Arguments and result as for `warp`.
    """
    return _where_moved(masks, matrices, fields, _resample_bilinear)


def within(
    matrices: Tensor,
    size: int,
    fields: Tensor | None = None,
    beyond: Tensor | float = 0.0,
) -> Tensor:
    """Which pixels of a warped image come from inside of it and not from its reflection.

    Args:
        matrices: (N, 3, 3) as for `warp`.
        size: side of the images in pixels.
        fields: (N, 2, k, k), likewise.
        beyond: share of the side, (N,) or one for all, by which a pixel may come from outside.

    Returns:
        (N, 1, size, size) bool.
    """
    axis = torch.arange(size, device=matrices.device, dtype=torch.float32)
    grid = _grid(matrices, fields, x=axis, y=axis, shape=(size, size))
    # Half a pixel beyond the center of the last one.
    edge = 1 + (1 + 2 * size * torch.as_tensor(beyond, device=grid.device)) / (size - 1)
    return (grid.abs() <= edge.view(-1, 1, 1, 1)).all(dim=3).unsqueeze(1)


def _where_moved(
    images: Tensor,
    matrices: Tensor,
    fields: Tensor | None,
    resample: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """Resample the images whose matrix is not the identity, or that are bent."""
    eye = torch.eye(3, device=matrices.device)
    still = (matrices == eye).flatten(1).all(dim=1)
    if fields is not None:
        still &= (fields == 0).flatten(1).all(dim=1)
    work = images if images.dtype == torch.float64 else images.float()
    if matrices.device.type == "cpu":  # asking costs nothing here; elsewhere it would wait
        moved = (~still).nonzero().flatten()
        if len(moved) == 0:
            return images
        if len(moved) < len(images):
            index = moved.to(images.device)
            maps = matrices[moved].to(images.device)
            bent = None if fields is None else fields[moved].to(images.device)
            part = resample(work.index_select(0, index), maps, bent)
            return images.index_copy(0, index, part.to(images.dtype))
    bent = None if fields is None else fields.to(images.device)
    warped = resample(work, matrices.to(images.device), bent).to(images.dtype)
    return torch.where(still.to(images.device).view(-1, 1, 1, 1), images, warped)


def _resample(images: Tensor, matrices: Tensor, fields: Tensor | None) -> Tensor:
    height, width = images.shape[2:]
    up_y, down_y = _filters(height, images.dtype, images.device)
    up_x, down_x = _filters(width, images.dtype, images.device)
    fine = up_y @ images @ up_x.mT  # (N, C, 2H - 1, 2W - 1): pixel centers and the points between
    # Rows k of the fine output lie at (k - delay) / 2, and it begins _CENTER rows early.
    grid = _grid(
        matrices,
        fields,
        x=(torch.arange(2 * width + 10, device=images.device) - _CENTER - _DELAY) / 2,
        y=(torch.arange(2 * height + 10, device=images.device) - _CENTER - _DELAY) / 2,
        shape=(height, width),
        delay=_DELAY / 2,
    )
    return down_y @ sample(fine, grid.to(images.dtype)) @ down_x.mT


def _resample_bilinear(masks: Tensor, matrices: Tensor, fields: Tensor | None) -> Tensor:
    height, width = masks.shape[2:]
    x = torch.arange(width, device=masks.device, dtype=torch.float32)
    y = torch.arange(height, device=masks.device, dtype=torch.float32)
    return sample(masks, _grid(matrices, fields, x=x, y=y, shape=(height, width)).to(masks.dtype))


def _grid(
    matrices: Tensor,  # (N, 3, 3)
    fields: Tensor | None,  # (N, 2, k, k)
    *,
    x: Tensor,  # (w,) output positions in input pixels, 0 = first pixel center
    y: Tensor,  # (h,)
    shape: tuple[int, int],  # H, W
    delay: float = 0.0,
) -> Tensor:
    """Sampling positions (N, h, w, 2), -1 and 1 being the centers of the outermost pixels."""
    height, width = shape
    column = x - (width - 1) / 2
    row = (y - (height - 1) / 2).view(-1, 1)
    if fields is not None:  # then the map, of which each pixel asks a little beside itself
        points = torch.stack(
            [
                (column * (2 / (width - 1))).expand(len(row), -1),
                (row * (2 / (height - 1))).expand(-1, len(column)),
            ],
            dim=2,
        )
        shifts = F.grid_sample(
            fields.float(),
            points.float().expand(len(fields), -1, -1, -1),
            mode="bicubic",
            padding_mode="border",
            align_corners=True,
        )
        column, row = column + shifts[:, 0], row + shifts[:, 1]  # (N, h, w)
    entry = matrices[:, :2, :, None, None]  # (N, 2, 3, 1, 1)
    x_in = entry[:, 0, 0] * column + (entry[:, 0, 1] * row + (entry[:, 0, 2] + delay))
    y_in = entry[:, 1, 0] * column + (entry[:, 1, 1] * row + (entry[:, 1, 2] + delay))
    return torch.stack([x_in * (2 / (width - 1)), y_in * (2 / (height - 1))], dim=3)


@lru_cache(maxsize=32)
def _filters(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Upsampling (2S - 1, S) and downsampling (S, 2S + 10) by two as banded matrices.

    Dense products beat convolutions on the CPU up to 512 pixels and come with their derivatives.
    sqrt(2) of gain on each side: sym6 is orthonormal at even shifts, so down(up(x)) = x.
    """
    with torch.inference_mode(False):  # cached, so it must be usable in training later
        taps = torch.tensor(SYM6, dtype=torch.float64)
        offset = torch.arange(len(SYM6)) - _CENTER
        # An impulse at n lands on the fine rows 2n + offset, reflected rows included.
        source = torch.arange(-len(SYM6), size + len(SYM6)).view(-1, 1)
        fine = 2 * source + offset
        inside = (fine >= 0) & (fine < 2 * size - 1)
        period = 2 * (size - 1)
        folded = (source % period).minimum(-source % period).expand_as(fine)
        up = torch.zeros((2 * size - 1, size), dtype=torch.float64)
        up.index_put_((fine[inside], folded[inside]), taps.expand_as(fine)[inside], accumulate=True)
        down = torch.zeros((size, 2 * size + 10), dtype=torch.float64)
        row = torch.arange(size).view(-1, 1)
        down[row, 2 * row + offset + _CENTER] = taps
        return up.to(device, dtype), down.to(device, dtype)


def sample(images: Tensor, grid: Tensor) -> Tensor:
    """Bilinear sampling with endless reflection, twice differentiable in the images.

    Args:
        images: (N, C, H, W) floating.
        grid: (N, h, w, 2) x and y, -1 and 1 being the centers of the outermost pixels; no gradient.

    Returns:
        (N, C, h, w).
    """
    out: Tensor = _Sample.apply(images, grid)  # type: ignore[no-untyped-call]
    return out


class _Sample(torch.autograd.Function):
    """y = S x for a fixed sampling matrix S; PyTorch's own lacks the second derivative."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(
            images, grid, mode="bilinear", padding_mode="reflection", align_corners=True
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Scatter.apply(grads[0], grid, ctx.shape), None  # type: ignore[no-untyped-call]


class _Scatter(torch.autograd.Function):
    """x = S^T y, the transpose of `_Sample`; its derivative is `_Sample` again."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        like = grad.new_empty(shape)  # only its shape matters
        # 0 bilinear, 2 reflection, then align_corners, then which of the two gradients is wanted
        out: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            grad.contiguous(), like, grid, 0, 2, True, [True, False]
        )[0]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(grads[0], grid), None, None  # type: ignore[no-untyped-call]

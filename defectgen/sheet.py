"""Contact sheets: rows of images with captions, masks drawn as outlines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from defectgen.checks import check_range
from defectgen.errors import ConfigError
from defectgen.files import atomic_file
from defectgen.morphology import dilated

CAPTION_HEIGHT = 16
BACKGROUND = (255, 255, 255)
INK = (0, 0, 0)
OUTLINE = (255, 0, 255)  # magenta: hardly ever the color of a product


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One captioned strip of a contact sheet.

    Attributes:
        caption: The text above the strip; may be empty.
        images: (N, C, H, W), C = 1 or 3, float in [0, 1] or uint8.
        masks: (N, 1, H, W) bool or 0/1, outlined in the images; None for no outline.
    """

    caption: str
    images: Tensor  # (N, C, H, W)
    masks: Tensor | None = None  # (N, 1, H, W)


def contact_sheet(
    rows: Sequence[SheetRow],
    path: str | os.PathLike[str] | None = None,
    *,
    columns: int,
    tile: int = 96,
) -> Image.Image:
    """Draw rows of images under their captions on one picture.

    Args:
        rows: The strips, from top to bottom. A strip with more than `columns` images goes on in
            further lines.
        path: Where to write the picture as PNG, atomically; None writes nothing.
        columns: Images per line.
        tile: Side of one image in pixels; each is resized to it.

    Returns:
        The picture, in RGB.

    Raises:
        ConfigError: no rows, a bad number, or a row whose tensors have a wrong shape or type.
    """
    check_range("columns", columns, low=1, integer=True)
    check_range("tile", tile, low=8, integer=True)
    if not rows:
        raise ConfigError("rows: must hold at least one row; got none; pass one or more")
    for index, row in enumerate(rows):
        _check_row(index, row)
    font = ImageFont.load_default()
    captions = [int(font.getbbox(row.caption)[2]) + 4 for row in rows]
    lines = [-(-len(row.images) // columns) for row in rows]
    size = (
        max(columns * tile, *captions),
        sum(CAPTION_HEIGHT + count * tile for count in lines),
    )
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for row, count in zip(rows, lines, strict=True):
        draw.text((2, top + 2), row.caption, INK, font=font)
        top += CAPTION_HEIGHT
        for index in range(len(row.images)):
            line, column = divmod(index, columns)
            sheet.paste(_cell(row, index, tile), (column * tile, top + line * tile))
        top += count * tile
    if path is not None:
        with atomic_file(path) as temporary:
            sheet.save(temporary, format="PNG")
    return sheet


def _check_row(index: int, row: SheetRow) -> None:
    images, masks = row.images, row.masks
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ConfigError(
            f"rows[{index}].images: must have the shape (N, 1 or 3, H, W); "
            f"got {tuple(images.shape)}; reshape them"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ConfigError(
            f"rows[{index}].images: must be uint8 or float; got {images.dtype}; convert them"
        )
    wanted = (images.shape[0], 1, *images.shape[2:])
    if masks is not None and masks.shape != wanted:
        raise ConfigError(
            f"rows[{index}].masks: must have the shape {wanted} to fit the images; "
            f"got {tuple(masks.shape)}; pass one mask per image"
        )


def _cell(row: SheetRow, index: int, tile: int) -> Image.Image:
    image = row.images[index].detach().cpu()
    if image.is_floating_point():
        image = image.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    array = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
    picture = picture.resize((tile, tile), Image.Resampling.LANCZOS)
    if row.masks is None:
        return picture
    pixels = np.array(picture)
    pixels[_outline(row.masks[index, 0].detach().cpu() > 0, tile)] = OUTLINE
    return Image.fromarray(pixels)


def _outline(mask: Tensor, tile: int) -> NDArray[np.bool_]:
    # (H, W) bool -> (tile, tile) bool: the ring just outside, so that the defect stays visible.
    # The maximum over each cell keeps even a scratch of one pixel.
    small = adaptive_max_pool2d(mask[None].float(), tile)
    ring: NDArray[np.bool_] = (dilated(small) > small)[0].numpy()
    return ring

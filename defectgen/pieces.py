"""Pieces of a defect: each may be left out, as long as enough of it stays."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.morphology import dilated
from defectgen.networks.known import THUMBNAIL, thumbnail

#: Of a defect in several pieces, each may be left out, as long as this share of its area stays.
SUBSET = 0.5


def some_pieces(masks: Tensor, source: torch.Generator) -> Tensor:
    """Masks (N, 1, R, R) bool without some of their pieces, drawn as for samples."""
    cover = thumbnail(masks.float())
    kept = kept_cells(cover, pieces_of(cover), draw_pieces(len(masks), source).to(masks.device))
    return masks & (enlarged(kept, masks.shape[-1]) > 0)


def draw_pieces(count: int, source: torch.Generator) -> Tensor:
    """Whether each possible piece is shown, (count, S * S + 1) bool."""
    size = count, THUMBNAIL**2 + 1
    return torch.rand(size, generator=source, device=source.device) < 0.5


def enlarged(cells: Tensor, side: int) -> Tensor:
    """Cells of a thumbnail (N, 1, S, S) bool as pixels (N, 1, side, side), 0 or 1."""
    return F.interpolate(cells.float(), size=(side, side))


def pieces_of(cover: Tensor) -> Tensor:
    """The piece each cell (n, 1, S, S) of a thumbnail belongs to: its largest cell; 0: none."""
    there = cover > 0
    labels = torch.arange(1.0, cover[0].numel() + 1, device=cover.device).view_as(cover[0]) * there
    while True:
        spread = dilated(labels) * there
        if torch.equal(spread, labels):
            return labels.long()
        labels = spread


def kept_cells(cover: Tensor, pieces: Tensor, draws: Tensor) -> Tensor:
    """Which cells (N, 1, S, S) of these defects are shown: pieces drawn, or all, if too little."""
    drawn = draws.gather(1, pieces.flatten(1)).view_as(pieces) & (pieces > 0)
    enough = (cover * drawn).sum((1, 2, 3)) >= SUBSET * cover.sum((1, 2, 3))
    return torch.where(enough.view(-1, 1, 1, 1), drawn, pieces > 0)

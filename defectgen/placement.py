"""Where a defect goes: a known mask, moved as the product allows, onto a place like its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.augment.geometry import draw_matrices
from defectgen.augment.policy import AugmentPolicy
from defectgen.augment.warp import warp, warp_mask, within
from defectgen.errors import ConfigError
from defectgen.networks.known import (
    THUMBNAIL,
    KnownDefects,
    adapted,
    draw_contrast,
    thumbnail,
)

#: Places tried for each mask of a sample: few are like its own on a part in a fixed pose, and few
#: keep a cut end at the border; where none is found, the sample repeats a training pair about where
#: it was. While a branch learns fewer will do, at most so many.
PLACES, LEARNING_PLACES = 256, 64
#: Probability of each move.
MOVES = 0.9
#: This share of the places tried, the last ones, lie close to the pair's own; spread of the shift,
#: of the side, and of the binary logarithm of the scale; of the turn, in radians.
NUDGES, NUDGE, TURN = 0.25, 0.05, 0.15
#: Points per axis of the field that bends a defect, and the spread of its shifts: of the side.
BENDS, BEND = 4, 0.02
#: A place is like the mask's own if they differ by at most this share of the contrast of a scene.
LIKENESS = 0.3
#: A moved mask keeps at least this share of its pixels in the picture.
KEPT = 0.8
#: A mask that the border of its photo cuts ends at a border, or so near, as a share of the side,
#: that its mirror image fills the gap: how such a defect goes on farther out, nobody knows.
RIM = 0.1
#: Of a defect in several pieces, each may be left out, as long as this share of its area stays.
SUBSET = 0.5

#: Operations that move a mask.
GEOMETRY = (
    "flip_x",
    "flip_y",
    "rot90",
    "translate_int",
    "scale",
    "rotate",
    "anisotropic",
    "translate_frac",
)


def allowed_moves(policy: AugmentPolicy, *, turned: bool) -> str:
    """Names of the operations that may move a mask, joined by commas.

    What the policy grants; and turns, where the place tells whether a turned mask lies where a
    defect may be: on a part, not in a texture.
    """
    granted = {name for name in GEOMETRY if getattr(policy, name)} | (
        {"rotate"} if turned else set()
    )
    return ",".join(name for name in GEOMETRY if name in granted)


def moves_from(names: str) -> AugmentPolicy:
    """The policy of `allowed_moves`.

    Raises:
        ConfigError: a name is not among them.
    """
    chosen = [name for name in names.split(",") if name]
    if not set(chosen) <= set(GEOMETRY):
        raise ConfigError(
            f"moves: must be names out of {', '.join(GEOMETRY)}; got {names!r}; fit again"
        )
    return AugmentPolicy(**{field.name: field.name in chosen for field in fields(AugmentPolicy)})


def draw_fields(count: int, side: int, source: torch.Generator) -> Tensor:
    """Shifts in pixels (N, 2, k, k) for `defectgen.augment.warp.warp`; none for some."""
    size = (count, 2, BENDS, BENDS)
    fields = torch.randn(size, generator=source, device=source.device) * (BEND * side)
    bent = torch.rand((count, 1, 1, 1), generator=source, device=source.device) < MOVES
    return torch.where(bent, fields, torch.zeros_like(fields))


def draw_nudges(policy: AugmentPolicy, count: int, side: int, source: torch.Generator) -> Tensor:
    """Inverse maps (N, 3, 3) of small moves: what is left where no other place is like the own."""
    drawn = torch.randn((count, 4), generator=source, device=source.device)
    size = torch.exp2(drawn[:, 0] * (NUDGE if policy.scale else 0.0))
    angle = drawn[:, 1] * (TURN if policy.rotate else 0.0)
    shifted = policy.translate_int or policy.translate_frac
    maps = torch.eye(3, device=source.device).repeat(count, 1, 1)
    maps[:, 0, 0] = maps[:, 1, 1] = size * angle.cos()
    maps[:, 0, 1], maps[:, 1, 0] = -size * angle.sin(), size * angle.sin()
    maps[:, :2, 2] = drawn[:, 2:] * (NUDGE * side if shifted else 0.0)
    return maps


def moved_pairs(
    images: Tensor, masks: Tensor, maps: Tensor, fields: Tensor
) -> tuple[Tensor, Tensor]:
    """Pairs under these maps, bent; those whose mask would leave the picture stay as they are.

    Images (N, C, R, R), masks (N, 1, R, R), maps (N, 3, 3), fields (N, 2, k, k); masks come back as
    bool, none of them empty.
    """
    maps, fields = maps.to(images.device), fields.to(images.device)
    signed = masks.to(images.dtype) * 2 - 1
    # Beyond the border a photo may go on mirrored; a defect does not.
    inside = within(maps, masks.shape[-1], fields, beyond=RIM * _rim(masks).flatten(1).any(1))
    moved = (warp_mask(signed, maps, fields) >= 0) & inside
    scale = maps[:, :2, :2].det().abs()  # the inverse map shrinks what the move enlarges
    lost = moved.sum((1, 2, 3)) * scale < KEPT * (signed > 0).sum((1, 2, 3))
    result = warp(images, maps, fields)
    where = lost.view(-1, 1, 1, 1)
    return torch.where(where, images, result), torch.where(where, signed > 0, moved)


class Placed(NamedTuple):
    """Masks, bool (N, 1, R, R), and what the branch is shown inside, (N, C, R, R)."""

    masks: Tensor
    examples: Tensor


@torch.no_grad()
def place_masks(
    known: KnownDefects,
    policy: AugmentPolicy,
    weights: Tensor,
    scenes: Tensor | None,
    sources: Sequence[torch.Generator],
    places: int = PLACES,
) -> Placed:
    """One mask for each sample: of a pair drawn by weight, at a place that looks like its own.

    A mask that the border cuts goes where a border cuts it again.

    Args:
        known: masks and scenes of the training pairs.
        policy: which moves are allowed.
        weights: (N, n), how much of each pair is in a sample.
        scenes: (N, C, R, R), what the samples look like without a defect; None if unknown.
        sources: a generator for each sample, or one for all.
        places: how many are tried.

    Returns:
        Masks, none of them empty, and the example for each.
    """
    count, side, device = len(weights), known.masks.shape[-1], known.masks.device
    cover = thumbnail(known.masks.to(known.scenes.dtype))
    pieces = _pieces(cover)
    index, matrices, contrasts, fields, halves = [], [], [], [], []
    for row, source in zip(weights, _each(sources, count), strict=True):
        # Drawn on the generator's device, so that a seed means the same on every machine.
        chosen = torch.multinomial(row.to(source.device), places, True, generator=source)
        index.append(chosen)
        far = draw_matrices(policy, places, side, p=MOVES, generator=source)
        near = draw_nudges(policy, round(NUDGES * places), side, source)
        matrices.append(torch.cat([far[: places - len(near)], near]))
        fields.append(draw_fields(1, side, source))
        contrasts.append(draw_contrast(1, source))
        size = places, int(pieces.max()) + 1
        halves.append(torch.rand(size, generator=source, device=source.device) < 0.5)
    pairs, maps = torch.cat(index).to(device), torch.cat(matrices).to(device)
    small = maps.clone()
    small[:, :2, 2] *= THUMBNAIL / side
    kept = _kept(cover[pairs], pieces[pairs], torch.cat(halves).to(device))
    shape = cover[pairs] * kept
    own = warp_mask(torch.cat([shape * 2 - 1, known.scenes[pairs]], 1), small)
    there = (own[:, :1] + 1) / 2 * within(small, THUMBNAIL)
    scale = maps[:, :2, :2].det().abs()  # the inverse map shrinks what the move enlarges
    lost = there.sum((1, 2, 3)) * scale < KEPT * shape.sum((1, 2, 3))
    lost |= _adrift(_rim(known.masks)[pairs] & kept, maps, side)
    score = torch.zeros_like(scale)
    if scenes is not None:
        here = thumbnail(scenes).repeat_interleave(places, 0)
        # Of a small defect no cell is covered by much: relative to the best covered one.
        cells = there > 0.05 * there.amax((1, 2, 3), keepdim=True)
        near = F.max_pool2d(cells.float(), 3, stride=1, padding=1)
        # Squared: one stroke beside the part is not outweighed by many on it.
        difference = (here - own[:, 1:]).abs().mean(1, keepdim=True).square() * near
        contrast = known.scenes.std(dim=(2, 3)).mean().clamp_min(0.02)
        mean = difference.sum((1, 2, 3)) / near.sum((1, 2, 3)).clamp_min(1)
        score = mean.sqrt() / contrast
    score = torch.where(lost, torch.full_like(score, 1e3), score)
    # The first that is good enough, or else the best: the best of all would always be no move.
    rank = torch.where(score <= LIKENESS, torch.arange(len(score), device=device) * 1e-6 - 1, score)
    best = rank.view(count, places).argmin(1) + places * torch.arange(count, device=device)
    pairs, maps = pairs[best], maps[best]
    images, masks = known.pairs(pairs)
    masks = masks * F.interpolate(kept[best].to(masks.dtype), size=(side, side))
    images, masks = moved_pairs(images, masks, maps, torch.cat(fields))
    shown = adapted(images, masks, scenes, torch.cat(contrasts).to(device))
    return Placed(masks, shown * masks)


def _rim(masks: Tensor) -> Tensor:
    """Which border cells of a thumbnail the masks (n, 1, R, R) reach: (n, 1, S, S) bool."""
    found = (masks > 0).float()
    found[..., 1:-1, 1:-1] = 0
    return F.adaptive_max_pool2d(found, THUMBNAIL) > 0


def _adrift(rim: Tensor, maps: Tensor, side: int) -> Tensor:
    """Which maps (N, 3, 3) take an end, (N, 1, S, S), from the border away from it: (N,) bool."""
    cells = rim.flatten(0, 1).any(0)
    half = (side - 1) / 2
    row, column = torch.meshgrid(2 * [torch.linspace(-half, half, THUMBNAIL)], indexing="ij")
    ends = torch.stack([column, row, torch.ones_like(row)])[:, cells.cpu()].to(maps)  # (3, cells)
    there = (maps.inverse() @ ends)[:, :2].abs()
    inside = (there < half - RIM * side).all(1)
    return (inside & rim[:, 0, cells]).any(1)


def _pieces(cover: Tensor) -> Tensor:
    """The piece each cell (n, 1, S, S) of a thumbnail belongs to: 1, 2, ...; 0 without defect."""
    there = cover > 0
    labels = torch.arange(1.0, cover[0].numel() + 1, device=cover.device).view_as(cover[0]) * there
    while True:
        spread = F.max_pool2d(labels, 3, stride=1, padding=1) * there
        if torch.equal(spread, labels):
            break
        labels = spread
    framed = F.pad(labels, (1, 0))  # so that 0 is among them, and the first
    return torch.stack([one.unique(return_inverse=True)[1] for one in framed])[..., 1:]


def _kept(cover: Tensor, pieces: Tensor, halves: Tensor) -> Tensor:
    """Which cells (N, 1, S, S) of these defects are shown: pieces drawn, or all, if too little."""
    drawn = halves.gather(1, pieces.flatten(1)).view_as(pieces) & (pieces > 0)
    enough = (cover * drawn).sum((1, 2, 3)) >= SUBSET * cover.sum((1, 2, 3))
    return torch.where(enough.view(-1, 1, 1, 1), drawn, pieces > 0)


def _each(sources: Sequence[torch.Generator], count: int) -> Sequence[torch.Generator]:
    return sources if len(sources) == count else [sources[0]] * count

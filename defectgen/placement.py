"""Where a defect goes: a known mask, moved as the product allows, onto a place like its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen import regions
from defectgen.augment.policy import AugmentPolicy
from defectgen.augment.warp import warp, warp_mask, within
from defectgen.moves import Tries, draw_tries, fields_of, joined, maps_of
from defectgen.networks.known import THUMBNAIL, KnownDefects, are_regions, thumbnail
from defectgen.pieces import enlarged, kept_cells, pieces_of
from defectgen.places import choice, differences

#: Places tried for each mask of a sample: few are like its own on a part in a fixed pose, and few
#: keep a cut end at the border. While a branch learns fewer will do, at most so many.
PLACES, LEARNING_PLACES = 256, 64
#: A place is about the own one if moved and unmoved mask share more than this of the smaller one.
HOME = 0.61
#: A moved mask keeps at least this share of its pixels in the picture; a region of a texture fewer.
KEPT = 0.8
#: A mask that the border of its photo cuts ends at a border, or so near, as a share of the side,
#: that its mirror image fills the gap: how such a defect goes on farther out, nobody knows.
RIM = 0.1


def centered(fields: Tensor, there: Tensor) -> Tensor:
    """The same bends without what they shift the moved masks by: that is for the maps to say.

    Fields (N, 2, k, k); there, (N, 1, R, R) bool: where the masks lie.
    """
    shifts = F.interpolate(fields, size=there.shape[2:], mode="bicubic", align_corners=True) * there
    total = there.sum((2, 3), keepdim=True).clamp_min(1)
    return fields - shifts.sum((2, 3), keepdim=True) / total


def moved_pairs(
    images: Tensor, masks: Tensor, maps: Tensor, fields: Tensor, *, texture: bool = False
) -> tuple[Tensor, Tensor]:
    """Pairs under these maps, bent; those whose mask would leave the picture stay as they are.

    A bend that makes a mask much smaller, or as much larger, is left out, and so is that of a
    region.
    Images (N, C, R, R), masks (N, 1, R, R), maps (N, 3, 3), fields (N, 2, k, k); masks come back as
    bool, none of them empty.
    """
    maps, fields = maps.to(images.device), fields.to(images.device)
    signed, side = masks.to(images.dtype) * 2 - 1, masks.shape[-1]
    unbent = warp_mask(signed, maps) >= 0
    large = are_regions((signed > 0).float())
    fields = fields * ~large.view(-1, 1, 1, 1)
    fields = centered(fields, unbent & within(maps, side))
    # Beyond the border a photo may go on mirrored; a defect does not.
    beyond = RIM * _rim(masks).flatten(1).any(1)
    unbent &= within(maps, side, beyond=beyond)
    bent = (warp_mask(signed, maps, fields) >= 0) & within(maps, side, fields, beyond)
    # The inverse map shrinks what the move enlarges.
    scale = maps[:, :2, :2].det().abs() / (signed > 0).sum((1, 2, 3))
    kept, left = (some.sum((1, 2, 3)) * scale for some in (bent, unbent))
    bends = ((kept >= KEPT) & (kept <= 1 / KEPT)).view(-1, 1, 1, 1)
    moves = bends | (left >= _least(large, texture)).view(-1, 1, 1, 1)
    result = warp(images, maps, fields * bends)
    moved = torch.where(bends, bent, unbent)
    return torch.where(moves, result, images), torch.where(moves, moved, signed > 0)


def _least(large: Tensor, texture: bool) -> Tensor:
    """Shares of their pixels that moved masks keep; ``large``, (N,) bool: which are regions."""
    return torch.where(large & texture, regions.KEPT, KEPT)


class Placed(NamedTuple):
    """Masks, bool (N, 1, R, R), none of them empty, and what is shown inside, (N, C, R, R)."""

    masks: Tensor
    examples: Tensor


class Tried(NamedTuple):
    """Defects of N samples at P places each, in rows of a sample after the other.

    S: side of a thumbnail; k: knots of a bend.
    """

    pairs: Tensor  # (N * P,), whose defect
    maps: Tensor  # (N * P, 3, 3), inverse
    kept: Tensor  # (N * P, 1, S, S) bool: cells of the pieces that are shown
    shape: Tensor  # (N * P, 1, S, S): how much of each cell they cover
    there: Tensor  # (N * P, 1, S, S): the same, moved
    own: Tensor  # (N * P, C, S, S): the scene of the pair, moved
    lost: Tensor  # (N, P) bool: the defect leaves the picture; never the last place
    fields: Tensor  # (N, 2, k, k): bends
    contrast: Tensor  # (N,)
    grain: Tensor | None  # (N, 4), what moves that of regions; None: they stay as they are
    policy: AugmentPolicy

    def drawn(self, known: KnownDefects, chosen: Tensor, scenes: Tensor | None) -> Placed:
        """The defects at these places, (N,), one for each sample, as they look in its scene."""
        images, masks = known.pairs(self.pairs[chosen])
        masks = masks * enlarged(self.kept[chosen], masks.shape[-1])
        large, texture = are_regions(masks), known.texture
        maps = self.maps[chosen]
        images, masks = moved_pairs(images, masks, maps, self.fields, texture=texture)
        if self.grain is not None:
            for k in large.nonzero().flatten().tolist():
                images[k] = regions.stirred(images[k], masks[k], self.grain[k], self.policy)
        shown = known.shown(images, masks, scenes, self.contrast, large)
        return Placed(masks, shown * masks)


def try_places(
    known: KnownDefects,
    policy: AugmentPolicy,
    weights: Tensor,
    sources: Sequence[torch.Generator],
    places: int,
    *,
    bend: float,
    alone: bool = False,
) -> Tried:
    """Places for samples, drawn as for `place_masks`, before anything is looked at.

    ``alone``: all are for the pair drawn first; else other pairs are tried, too.
    """
    count, side, device = len(weights), known.masks.shape[-1], known.masks.device
    each = sources if len(sources) == count else [sources[0]] * count
    rows = zip(weights, each, strict=True)
    drawn: Tries = joined([draw_tries(row, places, source) for row, source in rows])
    if alone:
        drawn = drawn._replace(pairs=drawn.pairs[::places].repeat_interleave(places))
    fields = fields_of(drawn.knots, drawn.chance, side, bend).to(device)
    maps = maps_of(policy, drawn, side).to(device)
    pairs, contrast, draws = (
        part.to(device) for part in (drawn.pairs, drawn.contrast, drawn.pieces)
    )
    cover, rim = thumbnail(known.masks.to(known.scenes.dtype)), _rim(known.masks)
    # Last, and only where it is wanted: whatever else is drawn stays what it was.
    moving = known.texture and known.levels is None and bool(are_regions(cover).any())
    grain = regions.draw_grain(each).to(device) if moving else None
    kept = kept_cells(cover[pairs], pieces_of(cover)[pairs], draws)
    shape, small = cover[pairs] * kept, at_size(maps, THUMBNAIL / side)
    own = warp_mask(torch.cat([shape * 2 - 1, known.scenes[pairs]], 1), small)
    there = (own[:, :1] + 1) / 2 * within(small, THUMBNAIL)
    scale = maps[:, :2, :2].det().abs()  # the inverse map shrinks what the move enlarges
    least = _least(are_regions(shape), known.texture)
    lost = there.sum((1, 2, 3)) * scale < least * shape.sum((1, 2, 3))
    lost |= _adrift(rim, rim[pairs] & kept, maps, side)
    lost = lost.view(count, places)
    return Tried(pairs, maps, kept, shape, there, own[:, 1:], lost, fields, contrast, grain, policy)


def at_size(maps: Tensor, factor: float) -> Tensor:
    """The same maps (N, 3, 3) of pictures that are so many times as large."""
    scaled = maps.clone()
    scaled[:, :2, 2] *= factor
    return scaled


@torch.no_grad()
def place_masks(
    known: KnownDefects,
    policy: AugmentPolicy,
    weights: Tensor,
    scenes: Tensor | None,
    sources: Sequence[torch.Generator],
    places: int = PLACES,
    *,
    bend: float,
) -> Placed:
    """One mask for each sample: of a pair drawn by weight, at a place that looks like its own.

    Pieces of a defect may be left out. What the border cuts goes where a border cuts it again.
    Where no place is like the own one, the best in one light is taken, elsewhere if that is nearly
    as good.

    Args:
        known: masks and scenes of the training pairs.
        policy: which moves are allowed.
        weights: (N, n), how much of each pair is in a sample.
        scenes: (N, C, R, R), what the samples look like without a defect; None if unknown.
        sources: a generator for each sample, or one for all.
        places: how many are tried.
        bend: spread of the shifts that bend a defect, of the side.
    """
    count, device = len(weights), known.masks.device
    tried = try_places(known, policy, weights, sources, places, bend=bend)
    there, shape = tried.there, tried.shape
    still = (tried.maps == torch.eye(3, device=device)).flatten(1).all(1).view(count, places)
    score, home = there.new_zeros(2, count, places), torch.zeros_like(still)
    if scenes is None:  # any place is as good, the own one, too
        still[:, :-1] = False
    else:
        here = thumbnail(scenes).repeat_interleave(places, 0)
        score = differences(here, tried.own, there, known).view(2, count, places)
        smaller = torch.minimum(there.sum((1, 2, 3)), shape.sum((1, 2, 3)))
        home = torch.minimum(there, shape).sum((1, 2, 3)) > HOME * smaller
    pairs, home = tried.pairs.view(count, places), home.view(count, places)
    best = choice(score[0], score[1], tried.lost, pairs, still, home)
    return tried.drawn(known, best + places * torch.arange(count, device=device), scenes)


def _rim(masks: Tensor) -> Tensor:
    """Which border cells of a thumbnail the masks (n, 1, R, R) reach: (n, 1, S, S) bool."""
    found = (masks > 0).float()
    found[..., 1:-1, 1:-1] = 0
    return F.adaptive_max_pool2d(found, THUMBNAIL) > 0


def _adrift(rim: Tensor, ends: Tensor, maps: Tensor, side: int) -> Tensor:
    """Which maps (N, 3, 3) take an end of their shape from the border away from it: (N,) bool.

    Args:
        rim: (n, 1, S, S), which border cells the masks of all pairs reach: only these are moved,
            the same ones in every batch.
        ends: (N, 1, S, S), which of them each shape reaches.
        maps: as drawn.
        side: of the images in pixels.
    """
    cells = rim.flatten(0, 1).any(0)
    half = (side - 1) / 2
    row, column = torch.meshgrid(2 * [torch.linspace(-half, half, THUMBNAIL)], indexing="ij")
    spots = torch.stack([column, row, torch.ones_like(row)])[:, cells.cpu()].to(maps)  # (3, cells)
    there = (maps.inverse() @ spots)[:, :2].abs()
    inside = (there < half - RIM * side).all(1)
    return (inside & ends[:, 0, cells]).any(1)

"""Where a defect goes: a known mask, moved as the product allows, onto a place like its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
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
from defectgen.pieces import draw_pieces, enlarged, kept_cells, pieces_of
from defectgen.places import choice, differences

#: Places tried for each mask of a sample: few are like its own on a part in a fixed pose, and few
#: keep a cut end at the border. While a branch learns fewer will do, at most so many.
PLACES, LEARNING_PLACES = 256, 64
#: Probability of each move.
MOVES = 0.9
#: This share of the places tried, the last ones, lie close to the pair's own, half of the others
#: keep the middle of the picture; spread of the small shifts, of the side, and of the binary
#: logarithm of the scale; of the turns, in radians.
NUDGES, NUDGE, TURN = 0.25, 0.05, 0.15
#: Knots per axis of what bends a defect, points of its shifts from knot to knot, and their spread
#: if knots are normally distributed.
BENDS, FINER, CURL = 4, 4, 0.66
#: Spread of the shifts, of the side: where defects follow outlines or a grain, and on parts of
#: which no two are alike.
BEND, FREE_BEND = 0.015, 0.04
#: A place is about the own one if moved and unmoved mask share more than this of the smaller one.
HOME = 0.61
#: A moved mask keeps at least this share of its pixels in the picture.
KEPT = 0.8
#: A mask that the border of its photo cuts ends at a border, or so near, as a share of the side,
#: that its mirror image fills the gap: how such a defect goes on farther out, nobody knows.
RIM = 0.1

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


def draw_fields(count: int, side: int, bend: float, source: torch.Generator) -> Tensor:
    """Shifts in pixels (N, 2, k, k) for `defectgen.augment.warp.warp`; none for some.

    They are the curl of a smooth random function, so what they bend keeps its area, nearly.
    """
    size = (count, 1, BENDS + 2, BENDS + 2)  # one knot beyond each border
    knots = torch.randn(size, generator=source, device=source.device)
    bent = torch.rand((count, 1, 1, 1), generator=source, device=source.device) < MOVES
    fine = (BENDS + 1) * FINER + 1
    potential = F.interpolate(knots, size=(fine, fine), mode="bicubic", align_corners=True)
    inner, past, before = (slice(FINER + d, fine - FINER + d) for d in (0, 1, -1))
    shifts = (
        potential[..., past, inner] - potential[..., before, inner],
        potential[..., inner, before] - potential[..., inner, past],
    )
    fields = torch.cat(shifts, 1) * (bend * side / CURL)
    return torch.where(bent, fields, torch.zeros_like(fields))


def centered(fields: Tensor, there: Tensor) -> Tensor:
    """The same bends without what they shift the moved masks by: that is for the maps to say.

    Fields (N, 2, k, k); there, (N, 1, R, R) bool: where the masks lie.
    """
    shifts = F.interpolate(fields, size=there.shape[2:], mode="bicubic", align_corners=True) * there
    total = there.sum((2, 3), keepdim=True).clamp_min(1)
    return fields - shifts.sum((2, 3), keepdim=True) / total


def draw_nudges(policy: AugmentPolicy, count: int, side: int, source: torch.Generator) -> Tensor:
    """Inverse maps (N, 3, 3) of small moves: near the own place a mask nearly always fits."""
    drawn = torch.randn((count, 4), generator=source, device=source.device)
    size = torch.exp2(drawn[:, 0] * (NUDGE if policy.scale else 0.0))
    angle = drawn[:, 1] * (TURN if policy.rotate else 0.0)
    shifted = policy.translate_int or policy.translate_frac
    maps = torch.eye(3, device=source.device).repeat(count, 1, 1)
    maps[:, 0, 0] = maps[:, 1, 1] = size * angle.cos()
    maps[:, 0, 1], maps[:, 1, 0] = -size * angle.sin(), size * angle.sin()
    shift = drawn[:, 2:] * (NUDGE * side if shifted else 0.0)
    maps[:, :2, 2] = shift if policy.translate_frac else shift.round()
    return maps


def moved_pairs(
    images: Tensor, masks: Tensor, maps: Tensor, fields: Tensor
) -> tuple[Tensor, Tensor]:
    """Pairs under these maps, bent; those whose mask would leave the picture stay as they are.

    A bend that makes a mask much smaller, or as much larger, is left out.
    Images (N, C, R, R), masks (N, 1, R, R), maps (N, 3, 3), fields (N, 2, k, k); masks come back as
    bool, none of them empty.
    """
    maps, fields = maps.to(images.device), fields.to(images.device)
    signed, side = masks.to(images.dtype) * 2 - 1, masks.shape[-1]
    unbent = warp_mask(signed, maps) >= 0
    fields = centered(fields, unbent & within(maps, side))
    # Beyond the border a photo may go on mirrored; a defect does not.
    beyond = RIM * _rim(masks).flatten(1).any(1)
    unbent &= within(maps, side, beyond=beyond)
    bent = (warp_mask(signed, maps, fields) >= 0) & within(maps, side, fields, beyond)
    # The inverse map shrinks what the move enlarges.
    scale = maps[:, :2, :2].det().abs() / (signed > 0).sum((1, 2, 3))
    kept, left = (some.sum((1, 2, 3)) * scale for some in (bent, unbent))
    bends = ((kept >= KEPT) & (kept <= 1 / KEPT)).view(-1, 1, 1, 1)
    moves = bends | (left >= KEPT).view(-1, 1, 1, 1)
    result = warp(images, maps, fields * bends)
    moved = torch.where(bends, bent, unbent)
    return torch.where(moves, result, images), torch.where(moves, moved, signed > 0)


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

    Returns:
        Masks, none of them empty, and the example for each.
    """
    count, side, device = len(weights), known.masks.shape[-1], known.masks.device
    tries = [
        _draw_tries(policy, row, places, side, source, bend)
        for row, source in zip(weights, _each(sources, count), strict=True)
    ]
    pairs, maps, fields, contrasts, draws = (
        torch.cat(part).to(device) for part in zip(*tries, strict=True)
    )
    cover, rim = thumbnail(known.masks.to(known.scenes.dtype)), _rim(known.masks)
    kept = kept_cells(cover[pairs], pieces_of(cover)[pairs], draws)
    shape = cover[pairs] * kept
    small = maps.clone()
    small[:, :2, 2] *= THUMBNAIL / side
    own = warp_mask(torch.cat([shape * 2 - 1, known.scenes[pairs]], 1), small)
    there = (own[:, :1] + 1) / 2 * within(small, THUMBNAIL)
    scale = maps[:, :2, :2].det().abs()  # the inverse map shrinks what the move enlarges
    lost = there.sum((1, 2, 3)) * scale < KEPT * shape.sum((1, 2, 3))
    lost |= _adrift(rim, rim[pairs] & kept, maps, side)
    still = (maps == torch.eye(3, device=device)).flatten(1).all(1).view(count, places)
    score, home = scale.new_zeros(2, count, places), torch.zeros_like(still)
    if scenes is None:  # any place is as good, the own one, too
        still[:, :-1] = False
    else:
        here = thumbnail(scenes).repeat_interleave(places, 0)
        score = differences(here, own[:, 1:], there, known).view(2, count, places)
        smaller = torch.minimum(there.sum((1, 2, 3)), shape.sum((1, 2, 3)))
        home = torch.minimum(there, shape).sum((1, 2, 3)) > HOME * smaller
    lost, pairs = lost.view(count, places), pairs.view(count, places)
    best = choice(score[0], score[1], lost, pairs, still, home.view(count, places))
    best += places * torch.arange(count, device=device)
    images, masks = known.pairs(pairs.flatten()[best])
    masks = masks * enlarged(kept[best], side)
    images, masks = moved_pairs(images, masks, maps[best], fields)
    shown = adapted(images, masks, scenes, contrasts)
    return Placed(masks, shown * masks)


class _Tries(NamedTuple):
    """What is drawn for one sample: pairs and maps of all places, bend, contrast, pieces."""

    pairs: Tensor  # (places,)
    maps: Tensor  # (places, 3, 3)
    field: Tensor  # (1, 2, k, k)
    contrast: Tensor  # (1,)
    pieces: Tensor  # (places, S * S + 1) bool


def _draw_tries(
    policy: AugmentPolicy,
    weights: Tensor,
    places: int,
    side: int,
    source: torch.Generator,
    bend: float,
) -> _Tries:
    """Drawn on the generator's device, so that a seed means the same on every machine."""
    pairs = torch.multinomial(weights.to(source.device), places, True, generator=source)
    pairs[-1] = pairs[0]
    nudges = draw_nudges(policy, max(1, round(NUDGES * places)), side, source)
    nudges[-1] = torch.eye(3)  # if nothing else keeps the defect in the picture
    moves = places - len(nudges)
    # A part in a fixed pose may be round: its defects go around its middle.
    about = replace(policy, translate_int=False, translate_frac=False)
    anywhere = draw_matrices(policy, moves - moves // 2, side, p=MOVES, generator=source)
    turns = draw_matrices(about, moves // 2, side, p=MOVES, generator=source)
    maps = torch.cat([anywhere, turns, nudges])
    field, contrast = draw_fields(1, side, bend, source), draw_contrast(1, source)
    return _Tries(pairs, maps, field, contrast, draw_pieces(places, source))


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


def _each(sources: Sequence[torch.Generator], count: int) -> Sequence[torch.Generator]:
    return sources if len(sources) == count else [sources[0]] * count

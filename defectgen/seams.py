"""Where a defect goes if only photos tell: where what surrounds it goes on as in its own photo.

For products of which the backbone has learned too little to say what a defect hides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.augment.policy import AugmentPolicy
from defectgen.augment.warp import warp_mask, within
from defectgen.morphology import dilated
from defectgen.networks.known import GAIN, RING, KnownDefects, exposure, thumbnail
from defectgen.pieces import enlarged
from defectgen.placement import Placed, Tried, at_size, try_places
from defectgen.places import differences

#: Of all places on all photos so many, those whose thumbnails are nearest, are looked at closely,
#: in pictures of at most so many pixels a side: what more of them show decides nothing here.
CLOSE, SIDE = 64, 128
#: Variance (white and black differ by 2) up to which a ring is flat, and noise on it means nothing.
FLAT = 0.02


@torch.no_grad()
def place_on_photos(
    known: KnownDefects,
    policy: AugmentPolicy,
    weights: Tensor,
    photos: Iterable[Tensor],
    sources: Sequence[torch.Generator],
    places: int,
    *,
    bend: float,
) -> tuple[Placed, Tensor, Tensor]:
    """One mask for each sample: of a pair drawn by weight, on the photo where it fits best.

    Args:
        known: masks, images, and scenes of the training pairs.
        policy: which moves are allowed.
        weights: (N, n), how much of each pair is in a sample.
        photos: for each sample its photos (T, C, R, R) in [-1, 1], no two the same; taken one
            sample after the other.
        sources: a generator for each sample.
        places: how many are tried on each photo.
        bend: spread of the shifts that bend a defect, of the side.

    Returns:
        The defects, which of its photos each takes, (N,), and these photos, (N, C, R, R).
    """
    tried = try_places(known, policy, weights, sources, places, bend=bend, alone=True)
    best, grounds = [], []
    for k, some in enumerate(photos):
        turn, place = _best(known, tried, some, range(k * places, (k + 1) * places))
        best.append((turn, place))
        grounds.append(some[turn])
    turns, chosen = torch.tensor(best, device=weights.device).unbind(1)
    below = torch.stack(grounds)
    return tried.drawn(known, chosen, below), turns, below


def _best(known: KnownDefects, tried: Tried, photos: Tensor, rows: range) -> tuple[int, int]:
    """Which of its photos (T, C, R, R) a sample takes, and which of its places, these rows."""
    some, places = slice(rows.start, rows.stop), len(rows)
    here = thumbnail(photos).repeat_interleave(places, 0)
    own, there = (part[some].repeat(len(photos), 1, 1, 1) for part in (tried.own, tried.there))
    score = differences(here, own, there, known).amin(0)  # as they are, or in one light
    score = score.masked_fill(tried.lost.flatten()[some].repeat(len(photos)), torch.inf)
    # Sorted and not the smallest so many: which of two equal ones is taken is then told.
    order = score.argsort(stable=True)[: min(CLOSE, int(score.isfinite().sum()))]
    turns, chosen = order // places, rows.start + order % places
    # All are of one pair: it and the photos are made small, before there are many of them.
    pair, size = tried.pairs[rows.start : rows.start + 1], min(SIDE, photos.shape[-1])
    images, masks = known.pairs(pair)
    images, small = (F.adaptive_avg_pool2d(part, size) for part in (images, photos))
    masks = F.adaptive_max_pool2d(masks, size) * enlarged(tried.kept[chosen], size)
    maps = at_size(tried.maps[chosen], size / photos.shape[-1])
    moved = warp_mask(images.expand(len(maps), -1, -1, -1), maps)
    inside = (warp_mask(masks * 2 - 1, maps) >= 0).to(images.dtype)
    ring = (dilated(inside, RING) - inside) * within(maps, size)
    # Without surroundings nothing is known: then the nearest thumbnail decides.
    empty = (ring.sum((1, 2, 3)) == 0) | (inside.sum((1, 2, 3)) == 0)
    least = int(unlike(moved, small[turns], ring).masked_fill(empty, torch.inf).argmin())
    return int(turns[least]), int(chosen[least])


def unlike(images: Tensor, here: Tensor, where: Tensor) -> Tensor:
    """How much two pictures differ where one goes on as the other: (N,).

    The squared difference as a share of what both vary by, in one light: 0 for equal ones, about 1
    for unrelated ones, also where one of them is flat. The difference alone would be smallest on
    empty ground, for most of what surrounds a line is that.

    Args:
        images: (N, C, R, R) in [-1, 1].
        here: likewise.
        where: (N, 1, R, R), 1 for pixels that count; 0 where there are none.
    """
    total = where.sum((2, 3), keepdim=True).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return (values * where).sum((2, 3), keepdim=True) / total

    # By halves, so that dark places seem no nearer than bright ones.
    root = exposure(here, images, where).clamp(1 / GAIN, GAIN).sqrt().view(-1, 1, 1, 1)
    lit = (images + 1) * root, (here + 1) / root
    varied = [mean((some - mean(some)).square()) for some in lit]
    missed = mean((lit[0] - lit[1]).square()).sum((1, 2, 3))
    return missed / (varied[0] + varied[1] + FLAT).sum((1, 2, 3))

"""Where a defect goes if only photos tell: where what surrounds it goes on as in its own photo.

For products of which the backbone has learned too little to say what a defect hides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.augment.policy import AugmentPolicy
from defectgen.augment.warp import warp_mask, within
from defectgen.morphology import dilated
from defectgen.networks.known import RING, KnownDefects, thumbnail
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
    photos: Sequence[Tensor],
    sources: Sequence[torch.Generator],
    places: int,
    *,
    bend: float,
) -> tuple[Placed, Tensor]:
    """One mask for each sample, on that of its photos on which it fits best.

    Args:
        known: masks, images, and scenes of the training pairs.
        policy: which moves are allowed.
        weights: (N, n), how much of each pair is in a sample.
        photos: (N, C, R, R) each, in [-1, 1]: the first photo of each sample, the second, and so
            on.
        sources: a generator for each sample.
        places: how many are tried on each photo.
        bend: spread of the shifts that bend a defect, of the side.

    Returns:
        The defects, and which of its photos each takes, (N,).
    """
    count = len(weights)
    tried = try_places(known, policy, weights, sources, places, bend=bend)
    pairs = tried.pairs.view(count, places)
    other = tried.lost | (pairs != pairs[:, :1])  # of the pair drawn first, as its weight says
    scores = []
    for some in photos:
        here = thumbnail(some).repeat_interleave(places, 0)
        score = differences(here, tried.own, tried.there, known)[0].view(count, places)
        scores.append(score.masked_fill(other, torch.inf))
    nearest = torch.stack(scores, 1).flatten(1)  # (N, photos * places)
    best = [
        _best(known, tried, torch.stack([some[k] for some in photos]), row, k * places, places)
        for k, row in enumerate(nearest)
    ]
    turn = torch.tensor([turn for turn, _ in best], device=weights.device)
    chosen = torch.tensor([place for _, place in best], device=weights.device)
    ground = torch.stack([photos[t][k] for k, (t, _) in enumerate(best)])
    return tried.drawn(known, chosen, ground), turn


def _best(
    known: KnownDefects, tried: Tried, photos: Tensor, score: Tensor, first: int, places: int
) -> tuple[int, int]:
    """Which of its photos (T, C, R, R) a sample takes, and which place, counted among all samples'.

    ``score``, (T * places,): how far the thumbnails are; infinite for places that cannot be taken.
    ``first``: where the sample's places begin.
    """
    # Sorted and not the largest so many: which of two equal ones is taken is then told.
    index = score.argsort(stable=True)[: min(CLOSE, int(score.isfinite().sum()))]
    turns, chosen = index // places, first + index % places
    images, masks = known.pairs(tried.pairs[chosen])
    masks = masks * enlarged(tried.kept[chosen], masks.shape[-1])
    size = min(SIDE, masks.shape[-1])
    images, masks, here = (
        F.adaptive_avg_pool2d(some, size) for some in (images, masks, photos[turns])
    )
    maps = at_size(tried.maps[chosen], size / photos.shape[-1])
    inside = (warp_mask(masks * 2 - 1, maps) >= 0).to(images.dtype)
    ring = (dilated(inside, RING) - inside) * within(maps, size)
    least = int(unlike(warp_mask(images, maps), here, ring).argmin())
    return int(turns[least]), int(chosen[least])


def unlike(images: Tensor, here: Tensor, where: Tensor) -> Tensor:
    """How much two pictures differ where one goes on as the other: (N,).

    The squared difference as a share of what both vary by: 0 for equal ones, about 1 for unrelated
    ones, also where one of them is flat. The share of the ring that differs would be smallest on
    empty ground, for most of what surrounds a line is that.

    Args:
        images: (N, C, R, R) in [-1, 1].
        here: likewise.
        where: (N, 1, R, R), 1 for pixels that count.
    """
    total = where.sum((2, 3), keepdim=True).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return (values * where).sum((2, 3), keepdim=True) / total

    varied = [mean((some - mean(some)).square()) for some in (images, here)]
    missed = mean((images - here).square()).sum((1, 2, 3))
    return missed / (varied[0] + varied[1] + FLAT).sum((1, 2, 3))

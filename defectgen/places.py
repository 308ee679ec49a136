"""Which of the places tried a defect takes: one that looks like its own."""

from __future__ import annotations

import torch
from torch import Tensor

from defectgen.morphology import dilated
from defectgen.networks.known import GAIN, KnownDefects, exposure

#: A place is like the mask's own if they differ by at most this share of the contrast of a scene;
#: a pair whose places all differ by more than the second one, as they are, leaves the sample to the
#: nearest pair.
LIKENESS, FAR = 0.2, 0.4
#: Where none is, the places are compared in one light, and all are good enough that differ by at
#: most so many times what the best one does; a pair leaves a sample only to one nearer by as much.
NEXT = 1.4


def differences(here: Tensor, own: Tensor, there: Tensor, known: KnownDefects) -> Tensor:
    """How much a place differs from the mask's own one: (2, N), shares of a scene's contrast.

    First as they are, then with their exposures made equal, each by half, up to a factor of GAIN.

    Args:
        here: (N, C, S, S), thumbnails of the scenes.
        own: (N, C, S, S), those of the pairs, moved.
        there: (N, 1, S, S), how much of each cell the moved mask covers.
        known: tells the contrast.
    """
    # Of a small defect no cell is covered by much: relative to the best covered one.
    cells = there > 0.05 * there.amax((1, 2, 3), keepdim=True)
    near = dilated(cells.float())
    contrast = known.scenes.std(dim=(2, 3)).mean().clamp_min(0.02)
    # By halves, so that dark places seem no nearer than bright ones.
    root = exposure(here, own, near).clamp(1 / GAIN, GAIN).sqrt().view(-1, 1, 1, 1)
    result = []
    for difference in (here - own, (here + 1) / root - (own + 1) * root):
        # Squared: one stroke beside the part is not outweighed by many on it.
        cell = difference.abs().mean(1, keepdim=True).square() * near
        mean = cell.sum((1, 2, 3)) / near.sum((1, 2, 3)).clamp_min(1)
        result.append(mean.sqrt() / contrast)
    return torch.stack(result)


def choice(
    score: Tensor, lit: Tensor, lost: Tensor, pairs: Tensor, still: Tensor, home: Tensor
) -> Tensor:
    """Which of its places (N, P) each sample takes: (N,).

    Preferred are those of the pair drawn first, so that all appear as often as their weights say;
    then moves; of those like the own place the first that is not about it, for the best would be a
    small move; if none is like it, the best in one light, or one not about it and nearly as good.

    Args:
        score: difference from the own place.
        lit: the same in one light.
        lost: places that lose the defect; never the last one.
        pairs: whose defect it is.
        still: places where nothing moves.
        home: places that share much of the own one.
    """
    score, lit = (some.masked_fill(lost, torch.inf) for some in (score, lit))
    own = score.masked_fill(pairs != pairs[:, :1], torch.inf).amin(1, keepdim=True)
    away = own > (NEXT * score.amin(1, keepdim=True)).clamp_min(FAR)
    whose = torch.where(away, pairs.gather(1, score.argmin(1, keepdim=True)), pairs[:, :1])
    score, lit = (some.masked_fill(pairs != whose, torch.inf) for some in (score, lit))
    like = score.amin(1, keepdim=True) <= LIKENESS
    least = torch.where(like, 0.0, lit.amin(1, keepdim=True))
    far = torch.where(like, score, torch.minimum(score, lit)) > (NEXT * least).clamp_min(FAR)
    rank = still.long().masked_fill(far, 2)
    first = rank == rank.amin(1, keepdim=True)
    best, least = (
        some.masked_fill(~first, torch.inf).amin(1, keepdim=True) for some in (score, lit)
    )
    like = best <= LIKENESS
    good = first & torch.where(like, score <= LIKENESS, lit <= NEXT * least)
    order = torch.where(like, torch.arange(score.shape[1], device=score.device), lit)
    # Below 1, in the same order: what is about the own place comes last.
    last = home + order / (1 + order)
    return last.masked_fill(~good, torch.inf).argmin(1)

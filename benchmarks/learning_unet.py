"""The downstream test: does generated data make a detector of defects better?

A small U-Net learns to mark defects from each of several sources of pairs, in the same way and for
as many steps; its average precision on unseen pictures says which source serves the user best.

Legend: N batch, n pictures of the test, C channels, H, W pixels, D draws, L levels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.learning_bootstrap import DRAWS, LEVEL, interval
from defectgen.augment.pipe import AugmentPipe
from defectgen.ops.convolution import conv2d

#: What each arm learns defects from. All arms see the same good images besides.
ARMS: dict[str, tuple[str, ...]] = {
    "real": ("real",),
    "generated": ("generated",),
    "real + generated": ("real", "generated"),
    "real + copy-paste": ("real", "copy-paste"),
}
#: Whose difference is reported: the first minus the second.
_BOTH = "real + generated"
DIFFERENCES = ((_BOTH, "real"), (_BOTH, "real + copy-paste"), ("generated", "real"))
#: Trainings of each arm, seed k of all from the same weights; steps of each, a minute in a thread.
SEEDS, STEPS = 3, 300
BATCH, GOODS = 16, 4
#: Probability of each augmentation; learning rate and weight decay.
CHANCE, RATE, DECAY = 0.5, 2e-3, 1e-2
#: Features at full, half, quarter and eighth resolution; normalized in groups of GROUP; the logit
#: of all pixels at first: few are defects. From 0 and with ReLU, all features of defects died.
WIDTHS, GROUP, PRIOR = (8, 24, 48, 96), 8, -4.0
LEVELS = 1024  # thresholds of the bootstrap

PROTOCOL = (
    f"A U-Net of widths {WIDTHS} learns from scratch, {SEEDS} times per arm, {STEPS} steps, batch "
    f"{BATCH}: {GOODS} good images with empty masks, {BATCH - GOODS} defects evenly drawn from the "
    "sources of the arm, with replacement. Augmentations that the product allows, each with "
    f"probability {CHANCE}; BCE + soft Dice; AdamW, rate {RATE} falling to 0 as a cosine. Score: "
    "average precision of all pixels of the test defects and unseen good images. Intervals: "
    f"{LEVEL:.0%}, paired bootstrap over test images, defects and goods apart, and over trainings; "
    "what other generators or training images would give is not in them."
)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images of defects and where the defects are.

    Attributes:
        images: (n, C, H, W) float32 in [0, 1], CPU, n at least 1, H = W.
        masks: (n, 1, H, W) bool, CPU.
    """

    images: Tensor
    masks: Tensor


class UNet(nn.Module):
    """Images to logits of "defect", pixel by pixel (after Ronneberger et al. 2015).

    Two convolutions with group normalization per level, halved by averages, doubled bilinearly.
    Nothing depends on the mode or on the other images of a batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(_level(a, b) for a, b in pairwise((channels, *WIDTHS)))
        self.thin = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(WIDTHS))
        self.up = nn.ModuleList(_level(2 * a, a) for a in WIDTHS[:-1])
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)
        nn.init.constant_(self.head.bias, PRIOR)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 in [-1, 1], H and W multiples of 8, to logits (N, 1, H, W)."""
        found = [self.down[0](images)]
        for level in self.down[1:]:
            found.append(level(F.avg_pool2d(found[-1], 2)))
        x = found.pop()
        for thin, level in zip(reversed(self.thin), reversed(self.up), strict=True):
            x = F.interpolate(thin(x), scale_factor=2, mode="bilinear", align_corners=False)
            x = level(torch.cat([x, found.pop()], dim=1))
        logits: Tensor = self.head(x)
        return logits


class _Conv(nn.Conv2d):
    """Without a bias, by the package's kernels where these are faster."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Conv2d
        return conv2d(input, self.weight, padding=int(self.padding[0]))


def _level(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers.append(_Conv(width, after, 3, padding=1, bias=False))
        layers += [nn.GroupNorm(after // GROUP, after), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def train(
    sources: list[Pairs], goods: Tensor, pipe: AugmentPipe, seed: int, steps: int = STEPS
) -> UNet:
    """Train one network as `PROTOCOL` says; a function of its arguments and the thread count.

    Args:
        sources: 1 to 3; each gives the same share of the defects of every batch.
        goods: images without defect, (n, C, H, W) float32 in [0, 1], n at least 1.
        pipe: the augmentations the product allows.
        seed: of weights, draws and augmentations; the global generator is not touched.
        steps: updates of the weights.
    """
    share = (BATCH - GOODS) // max(len(sources), 1)
    if len(sources) not in (1, 2, 3) or not len(goods):
        got = f"{len(sources)} sources, {len(goods)} goods"
        raise ValueError(f"sources: 1, 2 or 3, with some good images; got {got}; pass those")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = UNet(goods.shape[1]).to(memory_format=torch.channels_last)  # faster
        draw = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    pools = [(goods, torch.zeros_like(goods[:, :1]), GOODS)]
    pools += [(pairs.images, pairs.masks.float(), share) for pairs in sources]
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        picks = [torch.randint(len(one), (k,), generator=draw) for one, _, k in pools]
        images = torch.cat([pool[0][pick] for pool, pick in zip(pools, picks, strict=True)])
        masks = torch.cat([pool[1][pick] for pool, pick in zip(pools, picks, strict=True)])
        images, masks = pipe(images * 2 - 1, p=CHANCE, generator=draw, masks=masks * 2 - 1)
        optimizer.zero_grad()
        loss(network(images.clamp(-1, 1)), (masks > 0).float()).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean BCE plus 1 - (2 sum(pm) + 1) / (sum(p) + sum(m) + 1) for (N, 1, H, W), m 0 or 1."""
    p = logits.sigmoid()
    dice = (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + 1 - dice


@torch.no_grad()
def scores(network: UNet, images: Tensor) -> Tensor:
    """Probabilities (n, 1, H, W) float64 of a defect for images (n, C, H, W) in [0, 1]."""
    network.eval()
    logits = torch.cat([network(part * 2 - 1) for part in images.split(2 * BATCH)])
    return logits.double().sigmoid()  # in single precision all above 17 would be 1, and equal


def pixel_ap(scores: Tensor, masks: Tensor) -> float:
    """Average precision: sum over distinct thresholds of (R_k - R_(k-1)) P_k, in [0, 1].

    Pixels of equal score pass a threshold together. No interpolation, as in scikit-learn. Scores
    have any shape, masks the same one, bool, some of it True; else ValueError.
    """
    counts = histograms(scores.reshape(1, -1), masks.reshape(1, -1), levels=masks.numel())
    return float(_area(counts[:, 0]))


def _area(counts: Tensor) -> Tensor:
    """AP (...) from the positives and pixels at falling levels, (2, ..., L)."""
    hits, above = counts.cumsum(-1)
    return (counts[0] * hits / above.clamp(min=1)).sum(-1) / hits[..., -1].clamp(min=1)


def histograms(scores: Tensor, masks: Tensor, levels: int = LEVELS) -> Tensor:
    """Per picture, how many positives and pixels lie at each level of score.

    Recall changes at scores of positives only, so these are the thresholds: all of them, and then
    the AP is exact, or `levels` of them, each the lowest of an equal share of the positives; the AP
    then moves by about 1 / levels times the ups and downs of the precision: less than 0.01.

    Args:
        scores: (n, ...) finite.
        masks: (n, ...) bool, some of it True.
        levels: L at most; fewer where scores are equal.

    Returns:
        (2, n, L) float64, from the highest level down; pixels below all positives are in none.
    """
    odd = int((~scores.isfinite()).sum())
    if scores.shape != masks.shape or odd:
        raise ValueError(
            f"scores: finite, shape {tuple(masks.shape)} of the masks; got {odd} not finite, shape "
            f"{tuple(scores.shape)}; pass one probability per pixel, of a sound network"
        )
    if not masks.any():
        raise ValueError("masks: some defect must be marked; got none; pass defects for the test")
    ranked = scores[masks].sort().values
    edges = ranked.unique()
    if len(edges) > levels:
        edges = ranked[torch.arange(levels) * len(ranked) // levels].unique()
    places = torch.bucketize(scores.flatten(1), edges, right=True)  # (n, HW), 0 below all edges
    found = torch.zeros(2, len(scores), len(edges) + 1, dtype=torch.float64)
    found[0].scatter_add_(1, places, masks.flatten(1).double())
    found[1].scatter_add_(1, places, torch.ones_like(places, dtype=torch.float64))
    return found[:, :, 1:].flip(2)


def gains(
    first: list[Tensor],
    second: list[Tensor],
    masks: Tensor,
    groups: Tensor,
    draws: int = DRAWS,
    seed: int = 0,
) -> Tensor:
    """How much better the first arm is, by the AP averaged over training seeds: draws, (D + 1,).

    Paired: each draw takes the same pictures and the same training seeds of both arms. Three seeds
    are few: the share of the training noise in the interval is too narrow by about sqrt(2 / 3).

    Args:
        first: probabilities (n, 1, H, W), one tensor per training seed.
        second: the same of the other arm, from the same seeds.
        masks: where the defects are, (n, 1, H, W) bool.
        groups: (n,) numbers; the pictures of one are resampled among each other.
        draws: D.
        seed: of the draws.

    Returns:
        Mean difference of the data as they are, then of each resample.
    """
    generator = torch.Generator().manual_seed(seed)
    times = torch.zeros(draws, len(masks), dtype=torch.float64)  # how often each picture is taken
    for group in groups.unique():
        members = (groups == group).nonzero().flatten()
        taken = torch.randint(len(members), (draws, len(members)), generator=generator)
        times.scatter_add_(1, members[taken], torch.ones_like(taken, dtype=torch.float64))
    seeds = torch.randint(len(first), (draws, len(first)), generator=generator)
    pairs = list(zip(first, second, strict=True))
    areas = [[_area(times @ histograms(some, masks)) for some in pair] for pair in pairs]
    drawn = torch.stack([a - b for a, b in areas], 1).gather(1, seeds).mean(1)  # (D,)
    exact = [pixel_ap(a, masks) - pixel_ap(b, masks) for a, b in pairs]
    return torch.cat([drawn.new_tensor([sum(exact) / len(exact)]), drawn])


def compare(
    arms: dict[str, list[Tensor]], test_masks: Tensor, n_defects: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The numbers of the test, ready for JSON, and the draws of its differences.

    Args:
        arms: probabilities (n, 1, H, W) of each of `ARMS`, one tensor per training seed.
        test_masks: (n, 1, H, W) bool.
        n_defects: so many of the n come first and are defects; the others are good.

    Returns:
        `arms`: by name `ap`, one per seed, and `mean`; `differences`: by name "first - second"
        `mean`, `low`, `high`; `level` of these intervals; `test`: how many `defects` and `goods`,
        and `base_rate`, the share of defect pixels: the AP of a blind guess. And for each
        difference what `gains` gives.
    """
    groups, rate = torch.arange(len(test_masks)) >= n_defects, float(test_masks.double().mean())
    aps = {name: [pixel_ap(some, test_masks) for some in found] for name, found in arms.items()}
    draws = {
        f"{one} - {other}": gains(arms[one], arms[other], test_masks, groups)
        for one, other in DIFFERENCES
    }
    ends = ("mean", "low", "high")
    differences = {n: dict(zip(ends, interval(some), strict=True)) for n, some in draws.items()}
    found = {
        "arms": {name: {"ap": ap, "mean": sum(ap) / len(ap)} for name, ap in aps.items()},
        "differences": differences,
        "level": LEVEL,
        "test": {"defects": n_defects, "goods": len(test_masks) - n_defects, "base_rate": rate},
    }
    return found, draws


def run(
    sources: dict[str, Pairs],
    goods: Tensor,
    test: Pairs,
    test_goods: Tensor,
    pipe: AugmentPipe,
    log: Callable[[str], None],
    steps: int = STEPS,
    seeds: int = SEEDS,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train every arm with every seed; `compare`, with `protocol`, `steps` and `seconds`.

    `sources` has every name in `ARMS`; goods are (n, C, H, W) in [0, 1]; `log` gets lines.
    """
    began = before = time.perf_counter()
    images = torch.cat([test.images, test_goods])
    masks = torch.cat([test.masks, torch.zeros_like(test_goods[:, :1], dtype=torch.bool)])
    arms: dict[str, list[Tensor]] = {name: [] for name in ARMS}
    for seed in range(seeds):
        for name, used in ARMS.items():
            network = train([sources[source] for source in used], goods, pipe, seed, steps)
            arms[name].append(scores(network, images))
            took, before = time.perf_counter() - before, time.perf_counter()
            log(f"{name}, seed {seed}: AP {pixel_ap(arms[name][-1], masks):.3f}, {took:.0f} s")
    found, draws = compare(arms, masks, len(test.images))
    return found | {"protocol": PROTOCOL, "steps": steps, "seconds": before - began}, draws

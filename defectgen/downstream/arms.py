"""The arms of the downstream test: what each learns from, and which of them does better.

A small U-Net learns to mark defects from each of several sources of pairs, in the same way and for
as many steps; its average precision on unseen pictures says which source serves the user best.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from defectgen.augment.pipe import AugmentPipe
from defectgen.downstream.curve import LEVEL, gains, interval, pixel_ap
from defectgen.downstream.detector import (
    BATCH,
    CHANCE,
    GOODS,
    RATE,
    STEPS,
    WIDTHS,
    Pairs,
    scores,
    train,
)
from defectgen.metrics.paste import copy_paste

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
#: Trainings of each arm, seed k of all from the same weights.
SEEDS = 3


def sources_of(
    images: Tensor, masks: Tensor, real: Pairs, goods: Tensor, seed: int
) -> dict[str, Pairs]:
    """What the arms learn defects from, by name.

    Args:
        images: samples, (N, C, H, W) in [0, 1].
        masks: theirs, (N, 1, H, W) bool.
        real: the pairs of the fit.
        goods: (n, C, H, W) in [0, 1], on which as many copies of the real defects are pasted.
        seed: of the pastes.
    """
    some = masks.flatten(1).any(1)  # a sample without a defect is a good part, and says so
    some |= ~some.any()  # a dead branch: the detector is shown what there is
    pasted, places, _ = copy_paste(real.images, real.masks, goods, len(images), seed=seed)
    return {
        "real": real,
        "generated": Pairs(images[some], masks[some]),
        "copy-paste": Pairs(pasted, places),
    }


def protocol(steps: int = STEPS, seeds: int = SEEDS) -> str:
    """What was trained and measured, in words."""
    return (
        f"A U-Net of widths {WIDTHS} learns from scratch, {seeds} times per arm, {steps} steps, "
        f"batch {BATCH}: {GOODS} good images with empty masks, {BATCH - GOODS} defects evenly "
        "drawn from the sources of the arm, with replacement. Augmentations that the product "
        f"allows, each with probability {CHANCE}; BCE + soft Dice; AdamW, rate {RATE} falling to 0 "
        "as a cosine. Score: average precision of all pixels of the test defects and unseen good "
        f"images. Intervals: {LEVEL:.0%}, paired bootstrap over test images, defects and goods "
        "apart, and over trainings, whose spread is enlarged as these are few; what other "
        "generators or training images would give is not in them."
    )


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
    device: torch.device | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train every arm with every seed; `compare`, with `protocol`, `steps` and `seconds`.

    `sources` has every name in `ARMS`; goods are (n, C, H, W) in [0, 1]; `log` gets lines.
    """
    began = before = time.perf_counter()
    images = torch.cat([test.images, test_goods])
    masks = torch.cat([test.masks, torch.zeros_like(test_goods[:, :1], dtype=torch.bool)])
    arms: dict[str, list[Tensor]] = {name: [] for name in ARMS}
    left = seeds * len(ARMS)
    for seed in range(seeds):
        for name, used in ARMS.items():
            some = [sources[source] for source in used]
            network = train(some, goods, pipe, seed, steps, device)
            arms[name].append(scores(network, images))
            took, before = time.perf_counter() - before, time.perf_counter()
            left -= 1
            log(
                f"{name}, seed {seed}: AP {pixel_ap(arms[name][-1], masks):.3f}, {took:.0f} s, "
                f"about {left * took / 60:.1f} min left"
            )
    found, draws = compare(arms, masks, len(test.images))
    words = protocol(steps, seeds)
    return found | {"protocol": words, "steps": steps, "seconds": before - began}, draws

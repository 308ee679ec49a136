"""The downstream test on photos of the user."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import AugmentPolicy
from defectgen.backgrounds import known_of
from defectgen.batch import DefectBatch
from defectgen.checks import check_range
from defectgen.data.images import ImageSet, count_copies, load_images
from defectgen.data.sources import ImageSource
from defectgen.downstream.arms import SEEDS, run, sources_of
from defectgen.downstream.detector import STEPS, Pairs
from defectgen.downstream.report import Downstream
from defectgen.errors import ConfigError, DataWarning
from defectgen.memory import kept_memory
from defectgen.messages import say, warn
from defectgen.real_pairs import RealPairs, settings_of, warn_of_mixtures
from defectgen.synthesizer import DefectSynthesizer

#: Fewer photos of either kind in the test say too little, and no interval knows how little.
FEWEST = 5
#: Without goods for the test, one of so many is kept for it.
HELD_OUT = 5


def downstream_test(
    synth: DefectSynthesizer,
    *,
    training: tuple[ImageSource, ImageSource],
    test: tuple[ImageSource, ImageSource],
    goods: ImageSource,
    test_goods: ImageSource | None = None,
    on_goods: bool = False,
    n: int = 200,
    repeats: int = SEEDS,
    steps: int = STEPS,
    seed: int = 0,
) -> Downstream:
    """Does a detector get better if it learns from samples besides the real defects?

    Small U-Nets learn to mark defects, alike but for their source: the real pairs; samples; both;
    and the real pairs with copies of them pasted onto good photos, which needs no generator. Each
    is then shown defects and good parts that it has not seen. The networks are small and learn
    briefly: the differences between the arms are what counts, not how good one is.

    Args:
        synth: fitted.
        training: images and masks that ``fit`` got.
        test: images and masks of defects that it did not get; ten are few.
        goods: good photos to learn from.
        test_goods: others, for the test; None keeps every fifth of ``goods`` for it. The backbone
            may have learned from these; the detectors have not.
        on_goods: draw the samples on those of ``goods`` that are learned from, see
            `defectgen.DefectSynthesizer.sample`.
        n: samples, and pasted copies, to draw.
        repeats: trainings of each arm, at least 2; the interval is over these, too.
        steps: of each training.
        seed: of samples and pastes; sample i has the seed + i. Training k of each arm has seed k.

    Returns:
        The scores; on one CPU, with as many threads, the same for the same arguments.

    Warns:
        DataWarning: the test shows what was learned, or too little.

    Raises:
        NotFittedError: before ``fit``.
        ConfigError: a number is out of bounds, or there are too few good photos.
        ImageError, MaskError: listing every unusable file.
    """
    _check(synth, {"training": training, "test": test}, n, repeats, steps, seed, on_goods)
    # Asked first, drawn last: an object that was never fitted says so before files are read.
    batches = synth.iter_samples(n, seed=seed)
    if on_goods:
        known_of(synth.branch_, "on_goods")
    shape = synth.backbone_.fitted().config
    size = shape.resolution, shape.channels
    known = RealPairs(*training, *size, ("training", "training"))
    unseen = RealPairs(*test, *size, ("test", "test"))
    warn_of_mixtures(synth.config_["data"]["digest"], "test", unseen, known)
    learned, held = _goods(goods, test_goods, size)
    for text in _doubts(known.bytes, unseen.bytes, learned.images, held.images):
        warn(text, DataWarning)
    if on_goods:
        batches = synth.iter_samples(n, good_images=learned, seed=seed)
    with kept_memory():
        samples, real = DefectBatch.concat(list(batches)), Pairs(known.images, known.masks)
        clean = learned.images.float() / 255
        sources = sources_of(samples.images, cast(Tensor, samples.masks), real, clean, seed)
        test_pairs, test_clean = Pairs(unseen.images, unseen.masks), held.images.float() / 255
        found = _run(synth, sources, clean, test_pairs, test_clean, steps, repeats)
    facts = {"on_goods": on_goods, **settings_of(synth, unseen, known)}
    return _report(found, facts, n=int(n), seed=int(seed), learned=len(learned.images))


def _run(
    synth: DefectSynthesizer,
    sources: dict[str, Pairs],
    goods: Tensor,
    test: Pairs,
    test_goods: Tensor,
    steps: int,
    repeats: int,
) -> dict[str, Any]:
    """The trainings, on the device of the synthesizer, augmented as its product allows."""
    pipe = AugmentPipe(AugmentPolicy.from_dict(synth.backbone_.config_["augment"]["policy"]))
    device = synth.backbone_.fitted().mapping.w_avg.device
    found, _ = run(
        sources,
        goods,
        test,
        test_goods,
        pipe,
        lambda text: say(text, synth.verbose),
        steps,
        repeats,
        device,
    )
    return found


def _report(
    found: dict[str, Any], facts: dict[str, object], *, n: int, seed: int, learned: int
) -> Downstream:
    """The comparison, with what was drawn, shown, and computed."""
    del facts["real"]  # the defects of the test
    settings = {
        "samples": n,
        "seed": seed,
        "steps": found["steps"],
        **found["test"],
        "good_images": learned,
        "threads": torch.get_num_threads(),
        "seconds": round(found["seconds"], 1),
        **facts,
    }
    return Downstream(
        arms=found["arms"],
        differences=found["differences"],
        settings=settings,
        protocol=found["protocol"],
    )


def _check(
    synth: object,
    pairs: dict[str, object],
    n: int,
    repeats: int,
    steps: int,
    seed: int,
    on_goods: object,
) -> None:
    if not isinstance(synth, DefectSynthesizer):
        raise ConfigError(
            f"synth: a DefectSynthesizer; got {type(synth).__name__}; load one by from_pretrained"
        )
    for name, pair in pairs.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ConfigError(
                f"{name}: two sources, of images and of masks; got {type(pair).__name__}; pass both"
            )
    if not isinstance(on_goods, bool):
        raise ConfigError(
            f"on_goods: True or False; got {on_goods!r}; pass True, and the photos as goods"
        )
    # One training says nothing of what another one would find.
    least = ("n", n, 1), ("repeats", repeats, 2), ("steps", steps, 1), ("seed", seed, 0)
    for name, value, low in least:
        check_range(name, value, low=low, integer=True)


def _goods(
    goods: ImageSource, test_goods: ImageSource | None, size: tuple[int, int]
) -> tuple[ImageSet, ImageSet]:
    """Good images to learn from, and for the test."""
    resolution, channels = size
    found = load_images(goods, resolution=resolution, channels=channels, name="goods")
    if test_goods is not None:
        other = load_images(test_goods, resolution=resolution, channels=channels, name="test_goods")
        return found, other
    if len(found.images) < HELD_OUT:
        raise ConfigError(
            f"goods: at least {HELD_OUT}, of which every fifth is kept for the test; got "
            f"{len(found.images)}; pass more, or others as test_goods"
        )
    kept = torch.zeros(len(found.images), dtype=torch.bool)
    kept[HELD_OUT - 1 :: HELD_OUT] = True
    return found.only(~kept), found.only(kept)


def _doubts(known: Tensor, unseen: Tensor, learned: Tensor, held: Tensor) -> list[str]:
    """Why scores of these photos may mislead: pairs, then good ones, to learn from and to test.

    The test shows what was learned, or takes a defect for a good part; or it is small.
    """
    found = []
    for name, images, others in (
        ("test", unseen, (known, learned)),
        ("test_goods", held, (learned, known, unseen)),
        ("goods", learned, (known, unseen)),
    ):
        copies = count_copies(images, *others)
        if copies:
            found.append(
                f"{name}: photos that serve for nothing else here; got {copies} of {len(images)} "
                "that are also learned from, or are defects of the test, so scores mislead; pass "
                "others"
            )
        if name != "goods" and len(images) < FEWEST:
            found.append(
                f"{name}: at least {FEWEST}; got {len(images)}, which say too little of others, "
                "and the intervals do not tell how little; pass more"
            )
    return found

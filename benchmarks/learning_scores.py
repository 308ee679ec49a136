"""What is measured of one fit: the table of `evaluate`, and whether a detector learns from it."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from benchmarks.learning_backbones import minutes_of
from benchmarks.learning_bootstrap import kid_draws
from benchmarks.learning_fits import SAMPLES, draw_sheet, drawn, photos_of
from benchmarks.learning_records import Measured
from benchmarks.learning_sets import ALL, load_defects, load_goods
from defectgen import DefectSynthesizer
from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import AugmentPolicy
from defectgen.data.images import PairSet
from defectgen.downstream.arms import run, sources_of
from defectgen.downstream.detector import Pairs
from defectgen.metrics.features import find_extractor

KINDS = ("real", "generated", "copy-paste", "good twins")
log = logging.getLogger("learning")


class Keeping:
    """An extractor that remembers what it was asked for, in the order in which it was asked."""

    def __init__(self) -> None:
        self.network = find_extractor()
        self.name, self.found = self.network.name, list[Tensor]()

    def __call__(self, images: Tensor) -> Tensor:
        """Features of these images."""
        features = self.network(images)
        self.found.append(features)
        return features


def scores_of(folder: Path, name: str, seed: int, data: Path) -> Measured:
    """`evaluate` on the test defects, with minutes of the fit; a sheet lies beside it."""
    train, test = load_defects(data, name)
    synth = DefectSynthesizer.from_pretrained(folder)
    synth.precision, extractor = "auto", Keeping()
    found = synth.evaluate(
        test.images,
        test.masks,
        training=(train.images, train.masks),
        good_images=photos_of(folder, name, data),
        n=SAMPLES,
        seed=10000 * (1 + seed),
        extractor=extractor,
    )
    # `evaluate` asks for whole images, then for windows: the real ones, then each kind of fake.
    names = [(view, kind) for view in ("whole", "window") for kind in KINDS]
    features = dict(zip(names, extractor.found, strict=False))
    draws = {}
    for (view, kind), some in features.items():
        if kind != "real":
            # A good twin shares its origin with the sample.
            source = "copy-paste" if kind == "copy-paste" else "generated"
            origin = f"{folder.parent.name} {folder.name} {source}"
            draws[f"{view} {kind}"] = kid_draws(features[view, "real"], some, origin)
    draw_sheet(
        name, drawn(folder, name, seed, data), data, folder.with_name(folder.name + "-sheet.png")
    )
    record = {**found.to_dict(), "time": minutes_of(folder), "config": synth.config_}
    return record, draws


def downstream_of(folder: Path, name: str, seed: int, data: Path) -> Measured:
    """Pixel AP of a U-Net on test defects and unseen goods, with and without generated pairs."""
    train, test = (pairs_of(some) for some in load_defects(data, name))
    goods, test_goods = (some.images.float() / 255 for some in load_goods(data, ALL[name][0]))
    images, masks, _ = drawn(folder, name, seed, data).triplets()
    sources = sources_of(images, masks, train, goods, seed)
    policy = DefectSynthesizer.from_pretrained(folder).backbone_.config_["augment"]["policy"]
    pipe = AugmentPipe(AugmentPolicy.from_dict(policy))
    return run(sources, goods, test, test_goods, pipe, log.info)


def pairs_of(pairs: PairSet) -> Pairs:
    """Loaded pairs as the U-Net wants them."""
    return Pairs(pairs.images.float() / 255, pairs.masks.bool())

"""Backbones and fits of the learning benchmark, each made once and kept in a cache folder."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import defectgen.synthesizer
from benchmarks.learning_sets import PRODUCTS, SETS, SIDE, load_defects, load_goods
from defectgen import Backbone, DefectBatch, DefectSynthesizer
from defectgen.sheet import SheetRow, contact_sheet

#: Samples drawn from each fit.
SAMPLES = 200
COLUMNS = 12


@dataclass(frozen=True)
class Recipe:
    """How a branch is learned.

    Attributes:
        preset: of `DefectSynthesizer`.
        kimg: None takes the default of the preset.
        batch_size: likewise.
        training: fields of `TrainConfig` that differ from the default: what is being tried.
        shape: likewise of `DefectConfig`.
        backbone: name of the recipe of the backbone it stands on.
    """

    preset: str | None = None
    kimg: float | None = None
    batch_size: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    backbone: str = "default"


#: The published method stands on the same backbone, with the batch and the widths of the default.
_MATCH = {"match_channel_base": 1024, "match_channel_max": 64}
RECIPES = {
    "default": Recipe(),
    # A tenth of the default budgets.
    "tenth": Recipe(kimg=0.8, backbone="tenth"),
    "dfmgan": Recipe(preset="dfmgan", kimg=8.0, batch_size=16, shape=_MATCH),
}
#: What `Backbone` is given, by the name of the recipe.
BACKBONES: dict[str, dict[str, Any]] = {"default": {}, "tenth": {"kimg": 3.6}}


@contextmanager
def changed(module: Any, name: str, values: dict[str, Any]) -> Iterator[None]:
    """A function of a module gives other records: a benchmark may try what is not public."""
    original: Callable[..., Any] = getattr(module, name)

    def altered(*args: Any, **kwargs: Any) -> Any:
        return dataclasses.replace(original(*args, **kwargs), **values)

    setattr(module, name, altered)
    try:
        yield
    finally:
        setattr(module, name, original)


def backbone_of(product: str, recipe: str, seed: int, data: Path, cache: Path) -> Path:
    """Folder of the backbone, trained now if it is not there."""
    folder = cache / "backbones" / f"{product}-{recipe}-{seed}"
    if not (folder / "config.json").is_file():
        goods, _ = load_goods(data, product)
        channels = PRODUCTS[product].channels
        backbone = Backbone(
            SIDE,
            channels=channels,
            precision="auto",
            seed=seed,
            run_dir=run_of(folder),
            **BACKBONES[recipe],
        )
        timed(folder, lambda: backbone.fit(goods.images, resume=True))
        backbone.save_pretrained(folder)
    return folder


def fit_of(name: str, label: str, seed: int, data: Path, cache: Path) -> Path:
    """Folder of the fit, made now if it is not there; its samples lie beside it."""
    folder = cache / "fits" / label / f"{name.replace('/', '-')}-{seed}"
    recipe = RECIPES[label]
    below = backbone_of(SETS[name][0], recipe.backbone, seed, data, cache)
    if not (folder / "config.json").is_file():
        train, _ = load_defects(data, name)
        synth = DefectSynthesizer(
            below,
            preset=recipe.preset,
            kimg=recipe.kimg,
            batch_size=recipe.batch_size,
            precision="auto",
            seed=seed,
            run_dir=run_of(folder),
        )
        with (
            changed(defectgen.synthesizer, "defect_training", recipe.training),
            changed(defectgen.defect_fit, "defect_config", recipe.shape),
        ):
            timed(folder, lambda: synth.fit(train.images, train.masks, resume=True))
        synth.save_pretrained(folder)
    return folder


def drawn(folder: Path, seed: int) -> DefectBatch:
    """The samples of a fit: sample i has the seed 10000 * (1 + seed) + i."""
    synth = DefectSynthesizer.from_pretrained(folder)
    synth.precision = "auto"
    parts = synth.iter_samples(SAMPLES, return_normals=True, seed=10000 * (1 + seed))
    return DefectBatch.concat(list(parts))


def run_of(folder: Path) -> Path:
    """Run folder beside the weights: removing it loses nothing that is needed again."""
    return folder.with_name(folder.name + "-run")


def timed(folder: Path, fit: Callable[[], Any]) -> None:
    """Run a fit and note beside it how long it took, earlier parts of a resumed run included."""
    note = folder.with_name(folder.name + "-time.json")
    earlier = json.loads(note.read_text())["minutes"] if note.is_file() else 0.0
    began = time.perf_counter()
    try:
        fit()
    finally:
        note.parent.mkdir(parents=True, exist_ok=True)
        minutes = earlier + (time.perf_counter() - began) / 60
        record = {"minutes": minutes, "threads": torch.get_num_threads(), "load": os.getloadavg()}
        note.write_text(json.dumps(record) + "\n")


def draw_sheet(name: str, samples: DefectBatch, data: Path, path: Path) -> None:
    """Real defects above generated ones, each with and without the outline of its mask."""
    train, test = load_defects(data, name)
    images, masks, normals = samples.triplets()
    rows = []
    for title, pairs in (("training defects", train), ("test defects", test)):
        rows += [SheetRow(title, pairs.images, pairs.masks), SheetRow("", pairs.images)]
    for start in (0, COLUMNS, 2 * COLUMNS):
        some = slice(start, start + COLUMNS)
        rows += [
            SheetRow("generated defects", images[some], masks[some]),
            SheetRow("", images[some]),
            SheetRow("their good twins", normals[some]),
        ]
    contact_sheet(rows, path, columns=COLUMNS)

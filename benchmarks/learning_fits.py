"""Fits of the learning benchmark, each made once and kept in a cache folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import defectgen.synthesizer
from benchmarks.learning_backbones import backbone_of, budget_of, changed, run_of, timed
from benchmarks.learning_sets import ALL, load_defects
from defectgen import DefectBatch, DefectSynthesizer
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
        like: train as many minutes as the fit of that recipe took.
    """

    preset: str | None = None
    kimg: float | None = None
    batch_size: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    backbone: str = "default"
    like: str | None = None


#: The published method stands on the same backbone, with the batch and the widths of the default.
#: Its moving average, made for 400 kimg, would hold a third of the initial weights after 8.
_AVERAGE = {"ema_kimg": 0.4, "ema_rampup": 0.05}
_MATCH = {"match_channel_base": 1024, "match_channel_max": 64}
RECIPES = {
    "default": Recipe(),
    # A tenth of the default budgets.
    "tenth": Recipe(kimg=0.8, backbone="tenth"),
    "dfmgan": Recipe(preset="dfmgan", kimg=8.0, batch_size=16, shape=_MATCH, training=_AVERAGE),
    "dfmgan-time": Recipe(
        preset="dfmgan", batch_size=16, shape=_MATCH, training=_AVERAGE, like="default"
    ),
}


def fit_folder(name: str, label: str, seed: int, cache: Path) -> Path:
    """Where a fit lies, or will."""
    return cache / "fits" / label / f"{name.replace('/', '-')}-{seed}"


def fit_of(name: str, label: str, seed: int, data: Path, cache: Path) -> Path:
    """Folder of the fit, made now if it is not there; its samples lie beside it."""
    folder = fit_folder(name, label, seed, cache)
    recipe = RECIPES[label]
    below = backbone_of(ALL[name][0], recipe.backbone, seed, data, cache)
    if (folder / "config.json").is_file():
        return folder
    train, _ = load_defects(data, name)

    def fitted(**given: Any) -> DefectSynthesizer:
        synth = DefectSynthesizer(
            below,
            **{
                "preset": recipe.preset,
                "kimg": recipe.kimg,
                "batch_size": recipe.batch_size,
                "precision": "auto",
                "seed": seed,
                **given,
            },
        )
        with (
            changed(defectgen.synthesizer, "defect_training", recipe.training),
            changed(defectgen.defect_fit, "defect_config", recipe.shape),
        ):
            return synth.fit(train.images, train.masks, resume="run_dir" in given)

    more = {}
    if recipe.like:
        other = fit_of(name, recipe.like, seed, data, cache)
        more["kimg"] = budget_of(folder, other, lambda kimg: fitted(kimg=kimg))
    timed(folder, lambda: fitted(run_dir=run_of(folder), **more)).save_pretrained(folder)
    return folder


def drawn(folder: Path, seed: int) -> DefectBatch:
    """The samples of a fit: sample i has the seed 10000 * (1 + seed) + i."""
    synth = DefectSynthesizer.from_pretrained(folder)
    synth.precision = "auto"
    parts = synth.iter_samples(SAMPLES, return_normals=True, seed=10000 * (1 + seed))
    return DefectBatch.concat(list(parts))


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

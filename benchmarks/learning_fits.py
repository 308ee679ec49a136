"""Fits of the learning benchmark, each made once and kept in a cache folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import defectgen.synthesizer
from benchmarks.learning_backbones import backbone_of, budget_of, changed, run_of, timed
from benchmarks.learning_sets import ALL, load_defects, load_goods
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
        fit: learn nothing, take the fit of that recipe, and draw its defects on the good photos.
    """

    preset: str | None = None
    kimg: float | None = None
    batch_size: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    backbone: str = "default"
    like: str | None = None
    fit: str | None = None


#: The published method stands on the same backbone, with the batch and the widths of the default.
#: Its moving average, made for 400 kimg, would hold a third of the initial weights after 8.
_AVERAGE = {"ema_kimg": 0.4, "ema_rampup": 0.05}
_MATCH = {"match_channel_base": 1024, "match_channel_max": 64}
RECIPES = {
    "default": Recipe(),
    "on-photos": Recipe(fit="default"),
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
    if recipe.fit:
        return copied(fit_of(name, recipe.fit, seed, data, cache), folder)
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


def copied(source: Path, folder: Path) -> Path:
    """The same fit in another folder, with the note of how long it took."""
    note = source.with_name(source.name + "-time.json")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(note, folder.with_name(folder.name + "-time.json"))
    DefectSynthesizer.from_pretrained(source).save_pretrained(folder, include_backbone=True)
    return folder


def photos_of(folder: Path, name: str, data: Path) -> Tensor | None:
    """The good photos on which the recipe of this fit draws: those that are learned from."""
    if RECIPES[folder.parent.name].fit is None:
        return None
    return load_goods(data, ALL[name][0])[0].images


def drawn(folder: Path, name: str, seed: int, data: Path) -> DefectBatch:
    """The samples of a fit: sample i has the seed 10000 * (1 + seed) + i."""
    synth = DefectSynthesizer.from_pretrained(folder)
    synth.precision = "auto"
    given = {"seed": 10000 * (1 + seed), "good_images": photos_of(folder, name, data)}
    return DefectBatch.concat(list(synth.iter_samples(SAMPLES, return_normals=True, **given)))


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

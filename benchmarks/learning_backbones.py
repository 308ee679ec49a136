"""Backbones of the learning benchmark, each trained once and kept in a cache folder."""

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
from torch import Tensor

import defectgen.backbone
from benchmarks.learning_records import Measured
from benchmarks.learning_sets import PRODUCTS, SIDE, load_goods
from benchmarks.measure import commit
from defectgen import Backbone
from defectgen.backbone_fit import measure_layout
from defectgen.config import backbone_config, backbone_training
from defectgen.metrics.distances import density_coverage, kid
from defectgen.metrics.features import find_extractor
from defectgen.sheet import SheetRow, contact_sheet

#: Samples drawn from each backbone, and how many of them its sheet shows a row.
SAMPLES, COLUMNS = 500, 12
#: Thousands of images by which the speed of a recipe is measured: two rounds of its lazy terms.
PROBE = 0.512


@dataclass(frozen=True)
class BackboneRecipe:
    """How a backbone is trained.

    Attributes:
        given: arguments of `Backbone`.
        shape: fields of `BackboneConfig` that differ.
        like: train as many minutes as the backbone of that recipe took.
        share: of the default budget.
    """

    given: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    like: str | None = None
    share: float = 1.0


#: Plain StyleGAN2-ADA with bgc: the published recipe, in the widths and the batch of the default.
_WIDTHS = {"channel_base": 2048, "channel_max": 128, "w_dim": 128, "z_dim": 128}
BACKBONES = {
    "default": BackboneRecipe(),
    "tenth": BackboneRecipe(share=0.1),
    "plain": BackboneRecipe(
        given={"preset": "dfmgan", "batch_size": 16}, shape=_WIDTHS, like="default"
    ),
}


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


def backbone_folder(product: str, label: str, seed: int, cache: Path) -> Path:
    """Where a backbone lies, or will."""
    return cache / "backbones" / f"{product}-{label}-{seed}"


def backbone_of(product: str, label: str, seed: int, data: Path, cache: Path) -> Path:
    """Folder of the backbone, trained now if it is not there."""
    folder = backbone_folder(product, label, seed, cache)
    if (folder / "config.json").is_file():
        return folder
    goods, _ = load_goods(data, product)
    recipe = BACKBONES[label]

    def trained(**given: Any) -> Backbone:
        with changed(defectgen.backbone, "backbone_config", recipe.shape):
            backbone = Backbone(
                SIDE,
                channels=PRODUCTS[product].channels,
                precision="auto",
                seed=seed,
                **{**recipe.given, **given},
            )
            return backbone.fit(goods.images, resume="run_dir" in given)

    more = {}
    if recipe.like:
        other = backbone_of(product, recipe.like, seed, data, cache)
        more["kimg"] = budget_of(folder, other, lambda kimg: trained(kimg=kimg))
    elif recipe.share < 1:
        more["kimg"] = recipe.share * default_kimg(goods.images)
    made = timed(folder, lambda: trained(run_dir=run_of(folder), **more))
    made.save_pretrained(folder)
    return folder


def default_kimg(images: Tensor) -> float:
    """What a backbone of these images uint8 (n, C, R, R) is trained for by default."""
    layout, _ = measure_layout(images)
    shape = backbone_config(images.shape[-1], images.shape[1], None, layout, len(images))
    given = {"preset": None, "kimg": None, "batch_size": None, "seed": 0}
    return backbone_training(shape, **given, layout=layout).kimg


def budget_of(folder: Path, other: Path, probe: Callable[[float], Any]) -> float:
    """Thousands of images that take as long as the other run did, from a measured speed; kept.

    Time of the processor: with one thread that is the time on an idle machine, also on a busy one.
    """
    note = folder.with_name(folder.name + "-budget.json")
    if not note.is_file():
        minutes = minutes_of(other)["processor_minutes"]
        clock = [time.process_time()]
        for kimg in (PROBE, 2 * PROBE):
            probe(kimg)
            clock.append(time.process_time())
        # The difference: without what a run costs once, and without its judged snapshots, of
        # which a short run has as many as a long one.
        first, both = clock[1] - clock[0], clock[2] - clock[1]
        speed = PROBE * 60 / max(both - first, 0.1 * first)
        note.parent.mkdir(parents=True, exist_ok=True)
        record = {"kimg": round(minutes * speed, 3), "kimg_per_minute": speed, "like": other.name}
        note.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return float(json.loads(note.read_text(encoding="utf-8"))["kimg"])


def goods_of(folder: Path, product: str, seed: int, data: Path) -> Measured:
    """How near the samples of a backbone are to the goods; a sheet lies beside it."""
    goods, unseen = (some.images.float() / 255 for some in load_goods(data, product))
    backbone = Backbone.from_pretrained(folder)
    backbone.precision, extract = "auto", find_extractor()
    samples = backbone.sample(SAMPLES, seed=10000 * (1 + seed))
    shown = [("goods", goods), ("samples", samples), ("", samples[COLUMNS:])]
    rows = [SheetRow(title, some[:COLUMNS]) for title, some in shown]
    contact_sheet(rows, folder.with_name(folder.name + "-sheet.png"), columns=COLUMNS)
    real, fake, more = extract(goods), extract(samples), extract(unseen)
    value, error = kid(real, fake)
    spread = density_coverage(real, fake)
    record = {
        f"kid@{extract.name}": value,
        "standard error": error,
        f"kid@{extract.name}, unseen goods": kid(more, fake).value,
        f"kid@{extract.name}, unseen goods to goods": kid(real, more).value,
        f"density@{extract.name}": spread.density,
        f"coverage@{extract.name}": spread.coverage,
        "color off": color_off(goods, samples),
        "direction, samples": direction(samples),
        "direction, goods": direction(goods),
        "kimg": backbone.config_["trained_kimg"],
        "time": minutes_of(folder),
    }
    return record, {}


def color_off(goods: Tensor, samples: Tensor) -> float:
    """Largest difference of the mean of a channel, in standard deviations of images' means."""
    own, theirs = (some.mean(dim=(2, 3)) for some in (goods, samples))
    return float(((own.mean(0) - theirs.mean(0)).abs() / own.std(0).clamp_min(1e-3)).max())


def direction(images: Tensor) -> float:
    """Share of the squared steps from pixel to pixel that go sideways: 0.5 without direction."""
    across = images.diff(dim=3).square().mean()
    down = images.diff(dim=2).square().mean()
    return float(across / (across + down))


# -- files beside the weights --


def run_of(folder: Path) -> Path:
    """Run folder beside the weights: removing it loses nothing that is needed again."""
    return folder.with_name(folder.name + "-run")


def minutes_of(folder: Path) -> dict[str, Any]:
    """How long a run took, as `timed` wrote it."""
    note = folder.with_name(folder.name + "-time.json")
    found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    return found


def timed(folder: Path, fit: Callable[[], Any]) -> Any:
    """Run a fit and note beside it how long it took, earlier parts of a resumed run included."""
    note = folder.with_name(folder.name + "-time.json")
    earlier = minutes_of(folder) if note.is_file() else {"minutes": 0.0, "processor_minutes": 0.0}
    clocks = {"minutes": time.perf_counter, "processor_minutes": time.process_time}
    began = {name: clock() for name, clock in clocks.items()}
    try:
        return fit()
    finally:
        note.parent.mkdir(parents=True, exist_ok=True)
        spent = {k: earlier[k] + (clock() - began[k]) / 60 for k, clock in clocks.items()}
        how = {"threads": torch.get_num_threads(), "load": os.getloadavg(), "commit": commit()}
        note.write_text(json.dumps({**spent, **how}) + "\n", encoding="utf-8")

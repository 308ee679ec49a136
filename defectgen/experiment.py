"""The published experiment for one product: backbone, every type of defect, scores, pictures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from defectgen.augment.policy import POLICIES, AugmentPolicy
from defectgen.backbone import Backbone
from defectgen.config import backbone_training, defect_training
from defectgen.data.images import PairSet, load_images, load_pairs
from defectgen.errors import ImageError
from defectgen.experiment_report import FEWEST_LEARNED, cost_line, report_text, slug
from defectgen.files import atomic_file
from defectgen.messages import say
from defectgen.sheet import SheetRow, contact_sheet
from defectgen.synthesizer import DefectSynthesizer

#: Thousands of images by which speed is measured before anything begins.
PROBE_KIMG = 0.192
#: Samples that are scored, and images in a row of the pictures.
SAMPLES, COLUMNS = 200, 8


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an experiment is given; None takes the default of the class it is passed to.

    Attributes:
        resolution: pixels; None takes that of the zoo's entry.
        kimg: budget of the backbone.
        defect_kimg: budget of each branch.
        precision: as of `Backbone`.
        seed: of everything.
        device: torch device.
        verbose: as of `Backbone`.
    """

    resolution: int | None = None
    kimg: float | None = None
    defect_kimg: float | None = None
    precision: str = "auto"
    seed: int = 0
    device: str | None = None
    verbose: int = 1


class Photos(NamedTuple):
    """Photos of one product: goods, and for each type of defect images with masks."""

    goods: Any
    defects: Mapping[str, tuple[Any, Any]]


class Split(NamedTuple):
    """Pairs of one type of defect: what is learned, and what it is tested on."""

    learned: PairSet
    test: PairSet


class Experiment:
    """One product in one folder; every step is done once, so that it goes on where it stopped.

    Args:
        name: "mvtec/bottle".
        photos: of the product.
        folder: of this experiment alone; created.
        channels: 3 or 1.
        augment: operations that are true for the product, see `ZooRecord`.
        settings: budgets and the rest.

    Raises:
        ImageError: a type of defect has fewer than six pairs: five to learn from, one for the test.
    """

    def __init__(
        self,
        name: str,
        photos: Photos,
        folder: Path,
        *,
        channels: int = 3,
        augment: tuple[str, ...] | None = None,
        settings: Settings,
    ) -> None:
        self.name, self.folder, self.settings = name, folder, settings
        self.channels = channels
        self.augment: str | AugmentPolicy = "auto"
        if augment is not None:
            granted = dict.fromkeys(augment, True)
            self.augment = AugmentPolicy(**{**POLICIES["safe"].to_dict(), **granted})
        side = settings.resolution or 256
        self.goods = load_images(photos.goods, resolution=side, channels=channels)
        self.splits: dict[str, Split] = {}
        self.left_out: dict[str, int] = {}
        for defect, (images, masks) in photos.defects.items():
            count = len(images)
            if count <= FEWEST_LEARNED:
                self.left_out[defect] = count
                continue
            first = max(FEWEST_LEARNED, count // 3)
            learned, test = (
                load_pairs(images[some], masks[some], resolution=side, channels=channels)
                for some in (slice(first), slice(first, None))
            )
            self.splits[defect] = Split(learned, test)
        if not self.splits:
            raise ImageError(
                f"data: at least one type of defect with {FEWEST_LEARNED + 1} pairs or more; got "
                f"{self.left_out or 'none'} of {name}; add photos with masks"
            )

    # -- steps -------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Do what is missing, and return the report, which also lies in ``report.json``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cost = self._kept("cost.json", self.estimate)
        say(cost_line(self.name, cost), self.settings.verbose)
        backbone = self._backbone()
        rows = {}
        for defect in self.splits:
            synth = self._branch(backbone, defect)
            rows[defect] = self._kept(f"{slug(defect)}.json", partial(self._scores, synth, defect))
        self._pictures(backbone)
        found = {
            "name": self.name,
            "settings": asdict(self.settings),
            "goods": len(self.goods.images),
            "left_out": self.left_out,
            "cost": cost,
            "defects": rows,
        }
        _write(self.folder / "report.json", json.dumps(found, indent=1) + "\n")
        _write(self.folder / "README.md", report_text(found))
        return found

    def estimate(self) -> dict[str, Any]:
        """What all of it will cost: budgets, minutes at the speed of two short fits, memory."""
        given = self.settings
        backbone, minutes = _timed(lambda: self._fit_backbone(PROBE_KIMG, None))
        shape = backbone.fitted().config
        numbers: dict[str, Any] = {"preset": None, "batch_size": None, "seed": given.seed}
        budgets = {
            "backbone": backbone_training(shape, kimg=given.kimg, **numbers).kimg,
            "branch": defect_training(shape, kimg=given.defect_kimg, warm=True, **numbers).kimg,
        }
        name = next(iter(self.splits))
        _, more = _timed(lambda: self._fit_branch(backbone, name, PROBE_KIMG, None))
        total = minutes * budgets["backbone"] + more * budgets["branch"] * len(self.splits)
        return {
            "kimg": budgets,
            "branches": len(self.splits),
            "minutes": total / PROBE_KIMG,
            "gigabytes": peak_gigabytes(),
        }

    def _fit_backbone(self, kimg: float | None, run_dir: Path | None) -> Backbone:
        given = self.settings
        backbone = Backbone(
            given.resolution or 256,
            channels=self.channels,
            kimg=kimg,
            augment=self.augment,
            precision=given.precision,
            run_dir=run_dir,
            seed=given.seed,
            device=given.device,
            verbose=given.verbose if run_dir else 0,
        )
        return backbone.fit(self.goods.images, resume=run_dir is not None)

    def _fit_branch(
        self, backbone: Backbone, defect: str, kimg: float | None, run_dir: Path | None
    ) -> DefectSynthesizer:
        given, pairs = self.settings, self.splits[defect].learned
        synth = DefectSynthesizer(
            backbone,
            kimg=kimg,
            precision=given.precision,
            run_dir=run_dir,
            seed=given.seed,
            device=given.device,
            verbose=given.verbose if run_dir else 0,
        )
        return synth.fit(pairs.images, pairs.masks, resume=run_dir is not None)

    def _backbone(self) -> Backbone:
        folder = self.folder / "backbone"
        if not (folder / "config.json").is_file():
            run_dir = self.folder / "backbone-run"
            self._fit_backbone(self.settings.kimg, run_dir).save_pretrained(folder)
        return Backbone.from_pretrained(folder, device=self.settings.device)

    def _branch(self, backbone: Backbone, defect: str) -> DefectSynthesizer:
        folder = self.folder / slug(defect)
        if not (folder / "config.json").is_file():
            run_dir = folder.with_name(folder.name + "-run")
            synth = self._fit_branch(backbone, defect, self.settings.defect_kimg, run_dir)
            synth.save_pretrained(folder)
        synth = DefectSynthesizer.from_pretrained(folder, device=self.settings.device)
        return synth.set_params(precision=self.settings.precision, verbose=0)

    def _scores(self, synth: DefectSynthesizer, defect: str) -> dict[str, Any]:
        learned, test = self.splits[defect]
        found = synth.evaluate(
            test.images,
            test.masks,
            training=(learned.images, learned.masks),
            n=SAMPLES,
            seed=self.settings.seed,
        )
        return {
            "learned": len(learned.images),
            "test": len(test.images),
            "table": found.table(),
            **found.to_dict(),
        }

    def _pictures(self, backbone: Backbone) -> None:
        """Good samples, real defects, generated defects: one picture for all types."""
        seed, rows = self.settings.seed, [SheetRow("good photos", self.goods.images[:COLUMNS])]
        rows.append(SheetRow("good samples", backbone.sample(COLUMNS, seed=seed)))
        for defect, (learned, test) in self.splits.items():
            synth = self._branch(backbone, defect)
            images, masks = synth.sample(2 * COLUMNS, return_masks=True, seed=seed)
            for title, pairs in (("real, learned", learned), ("real, unseen", test)):
                some = slice(COLUMNS)
                row = SheetRow(f"{defect}: {title}", pairs.images[some], pairs.masks[some])
                rows.append(row)
            rows.append(SheetRow(f"{defect}: generated", images, masks))
        contact_sheet(rows, self.folder / "pictures.png", columns=COLUMNS)

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            _write(path, json.dumps(make(), indent=1) + "\n")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def peak_gigabytes() -> float | None:
    """The most memory this process has used so far: of the GPU if it used one."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    if sys.platform == "win32":
        return None
    import resource

    # Kilobytes, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _timed(fit: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = fit()
    return result, (time.perf_counter() - began) / 60


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

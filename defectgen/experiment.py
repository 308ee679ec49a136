"""The published experiment for one product: backbone, every type of defect, scores, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from defectgen.adapter import synthesizer_tensors
from defectgen.augment.policy import POLICIES, AugmentPolicy
from defectgen.backbone import Backbone
from defectgen.data.images import PairSet, load_images, load_pairs
from defectgen.errors import ImageError
from defectgen.experiment_cost import (
    backbone_cost,
    branch_cost,
    forget_peak,
    machine,
    peak_gigabytes,
)
from defectgen.experiment_report import FEWEST_LEARNED, FEWEST_UNSEEN, cost_line, report_text
from defectgen.experiment_settings import (
    COST,
    FREE,
    REPORT,
    SETTINGS,
    Settings,
    check_begun,
    read_record,
)
from defectgen.files import atomic_file
from defectgen.messages import say
from defectgen.metrics.report import Evaluation
from defectgen.registry import slug
from defectgen.sheet import SheetRow, contact_sheet
from defectgen.synthesizer import DefectSynthesizer
from defectgen.weights import tensor_digest

#: Pairs of a type of defect that it takes.
FEWEST = FEWEST_LEARNED + FEWEST_UNSEEN
#: Pixels of an experiment that nobody named others for.
RESOLUTION = 256
#: Thousands of images of the fit that decides what speed is measured with.
PROBE_KIMG = 0.016
#: Samples that are scored, and images in a row of the pictures.
SAMPLES, COLUMNS = 200, 8


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

    Attributes:
        goods: good images.
        splits: for each type of defect with enough pairs what is learned, and what is tested on.
        left_out: number of pairs of the other types.

    Raises:
        ImageError: every type of defect has fewer than seven pairs: five to learn from, two for
            the test.
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
        side, count = settings.resolution or RESOLUTION, settings.samples or SAMPLES
        self.name, self.folder = name, folder
        self.settings = replace(settings, resolution=side, samples=count)
        self.channels, self.operations = channels, augment
        self.augment: str | AugmentPolicy = "auto"
        if augment is not None:
            granted = dict.fromkeys(augment, True)
            self.augment = AugmentPolicy(**{**POLICIES["safe"].to_dict(), **granted})
        self.goods = load_images(photos.goods, resolution=side, channels=channels)
        self.splits: dict[str, Split] = {}
        self.left_out: dict[str, int] = {}
        for defect, (images, masks) in photos.defects.items():
            count = len(images)
            if count < FEWEST:
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
                f"data: at least one type of defect with {FEWEST} pairs or more; got "
                f"{self.left_out or 'none'} of {name}; add photos with masks"
            )

    # -- steps -------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Do what is missing, and return the report, which also lies in ``report.json``.

        Raises:
            ConfigError: the folder holds an experiment of other settings or photos.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.check_settings()
        _write_record(self.folder / SETTINGS, self.record())
        cost = self.cost()
        say(cost_line(self.name, cost), self.settings.verbose)
        backbone = self.backbone()
        rows = {}
        for defect in self.splits:
            synth = self.branch(backbone, defect)
            rows[defect] = self._scored(synth, defect)
        self._pictures(backbone)
        found = {
            "name": self.name,
            "settings": asdict(self.settings),
            "goods": len(self.goods.images),
            "left_out": self.left_out,
            "cost": cost,
            "defects": rows,
        }
        _write_record(self.folder / REPORT, found)
        _write(self.folder / "README.md", report_text(found))
        return found

    def record(self) -> dict[str, Any]:
        """Everything that decides what comes out, as plain types: what ``settings.json`` holds."""
        given = {k: v for k, v in asdict(self.settings).items() if k not in FREE}
        photos = {"goods": self.goods.digest}
        for defect, (learned, test) in self.splits.items():
            photos[defect] = f"{learned.digest} {test.digest}"
        augment = None if self.operations is None else list(self.operations)
        named = {"name": self.name, "channels": self.channels, "augment": augment}
        return {**named, **given, "photos": photos}

    def check_settings(self) -> None:
        """Compare with what the experiment in the folder was begun with, if there is one.

        Raises:
            ConfigError: see `check_begun`.
        """
        slugs = [slug(defect) for defect in (*self.splits, *self.left_out)]
        parts = [name + end for name in ("backbone", *slugs) for end in ("", "-run")]
        parts += [f"{name}.json" for name in slugs]
        check_begun(self.folder, self.record(), [COST, REPORT, *parts])

    def cost(self) -> dict[str, Any]:
        """The estimate of the folder, made now if it is not there or of another machine."""
        path, here = self.folder / COST, machine(self.settings.device)
        if path.is_file() and read_record(path, machine=str)["machine"] != here:
            path.unlink()
        if not path.is_file():
            _write_record(path, {**self.estimate(), "machine": here})
        memory = (int, float, type(None))
        return read_record(path, kimg=dict, branches=int, minutes=(int, float), gigabytes=memory)

    def estimate(self) -> dict[str, Any]:
        """What all of it will cost: budgets, minutes at the speed of single steps, memory."""
        given = self.settings
        forget_peak(given.device)
        probe = self._fit_backbone(PROBE_KIMG, None)
        backbone, whole = backbone_cost(probe, self.goods, given.kimg, given.seed)
        pairs = next(iter(self.splits.values())).learned
        branch, each = branch_cost(probe, pairs, given.defect_kimg, given.seed)
        return {
            "kimg": {"backbone": backbone, "branch": branch},
            "branches": len(self.splits),
            "minutes": (whole + each * len(self.splits)) / 60,
            "gigabytes": peak_gigabytes(given.device),
        }

    def _fit_backbone(self, kimg: float | None, run_dir: Path | None) -> Backbone:
        given = self.settings
        backbone = Backbone(
            given.resolution,
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

    def backbone(self) -> Backbone:
        """The backbone of the folder, trained if it is not there."""
        folder = self.folder / "backbone"
        if not (folder / "config.json").is_file():
            run_dir = self.folder / "backbone-run"
            self._fit_backbone(self.settings.kimg, run_dir).save_pretrained(folder)
        return Backbone.from_pretrained(folder, device=self.settings.device)

    def branch(self, backbone: Backbone, defect: str) -> DefectSynthesizer:
        """The branch of the folder, trained on the backbone if it is not there."""
        folder = self.folder / slug(defect)
        if not (folder / "config.json").is_file():
            run_dir = folder.with_name(folder.name + "-run")
            synth = self._fit_branch(backbone, defect, self.settings.defect_kimg, run_dir)
            synth.save_pretrained(folder)
        synth = DefectSynthesizer.from_pretrained(folder, device=self.settings.device)
        return synth.set_params(precision=self.settings.precision, verbose=0)

    def evaluate(self, synth: DefectSynthesizer, defect: str) -> Evaluation:
        """Compare samples with the pairs of this type that were not learned."""
        learned, test = self.splits[defect]
        return synth.evaluate(
            test.images,
            test.masks,
            training=(learned.images, learned.masks),
            n=self.settings.samples or SAMPLES,
            seed=self.settings.seed,
        )

    def _scored(self, synth: DefectSynthesizer, defect: str) -> dict[str, Any]:
        """The scores of the folder, computed now if they are not there or of other weights."""
        path, kinds = self.folder / f"{slug(defect)}.json", {"learned": int, "test": int}
        model = tensor_digest(synthesizer_tensors(synth))
        if path.is_file():
            found = read_record(path, table=str, scores=dict, settings=dict, **kinds)
            if found["settings"].get("model") == model:
                return found
        _write_record(path, self._scores(synth, defect))
        return read_record(path)

    def _scores(self, synth: DefectSynthesizer, defect: str) -> dict[str, Any]:
        learned, test = self.splits[defect]
        found = self.evaluate(synth, defect)
        counts = {"learned": len(learned.images), "test": len(test.images)}
        return {**counts, "table": found.table(), **found.to_dict()}

    def _pictures(self, backbone: Backbone) -> None:
        """Good samples, real defects, generated defects: one picture for all types."""
        seed, rows = self.settings.seed, [SheetRow("good photos", self.goods.images[:COLUMNS])]
        rows.append(SheetRow("good samples", backbone.sample(COLUMNS, seed=seed)))
        for defect, (learned, test) in self.splits.items():
            synth = self.branch(backbone, defect)
            for title, pairs in (("real, learned", learned), ("real, unseen", test)):
                shown = pairs.images[:COLUMNS], pairs.masks[:COLUMNS]
                rows.append(SheetRow(f"{defect}: {title}", *shown))
            drawn = synth.sample(2 * COLUMNS, return_masks=True, seed=seed)
            placed = synth.sample(COLUMNS, return_masks=True, good_images=self.goods, seed=seed)
            rows.append(SheetRow(f"{defect}: generated", *drawn))
            rows.append(SheetRow(f"{defect}: generated on good photos", *placed))
        contact_sheet(rows, self.folder / "pictures.png", columns=COLUMNS)


def _write_record(path: Path, record: dict[str, Any]) -> None:
    _write(path, json.dumps(record, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")

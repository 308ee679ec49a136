"""The demo: trains the embedded example for some minutes, samples it, scores it, and reports."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from defectgen.adapter import synthesizer_tensors
from defectgen.backbone import Backbone
from defectgen.batch import DefectBatch
from defectgen.checks import check_range
from defectgen.data.example import example_folders
from defectgen.data.images import PairSet, load_pairs
from defectgen.demo_report import REPORT_NAME, SHEET_NAME, TITLE, DemoResult, report
from defectgen.demo_speed import measure_speed
from defectgen.errors import TrainingWarning
from defectgen.estimator import FEWEST_KIMG
from defectgen.files import RESUME_NAME, atomic_folder, check_replaceable, run_beside
from defectgen.messages import warn
from defectgen.networks.defect import receptive_radius
from defectgen.scores import score_table
from defectgen.sheet import SheetRow, contact_sheet
from defectgen.synthesizer import DefectSynthesizer
from defectgen.weights import tensor_digest
from defectgen.writer import METADATA_NAME, write_samples

_logger = logging.getLogger("defectgen")

#: Thousands of training images of one demo: one to three minutes on two CPU cores.
DEMO_KIMG = 2.0
#: Pairs drawn, scored and written.
DEMO_SAMPLES = 64

_COLUMNS = 8
# What `write_samples` calls a picture.
_PICTURE = re.compile(r"\d{6,}\.png")


def demo(
    out: str | os.PathLike[str] = "out/demo",
    *,
    kimg: float | None = None,
    seed: int = 0,
) -> DemoResult:
    """Learn paint on hazelnuts from 17 photos, draw 64 pairs, and say how good they are.

    The defect branch is trained from nothing on the shipped backbone, which is not changed.
    Writes ``images/``, ``masks/``, ``normals/``, ``metadata.jsonl``, ``contact_sheet.png`` and
    ``report.md``. An earlier demo in ``out`` is replaced once the new one is complete. The run
    lies beside it in ``OUT.run`` until then: a demo that was stopped goes on when called again.

    Args:
        out: new or empty, or the output of an earlier demo.
        kimg: training budget, thousands of images; None takes one to three minutes on two cores.
        seed: of training and samples.

    Raises:
        ConfigError: ``out`` holds something else, or a parameter is outside its rule.
        TrainingError: if training diverged.
    """
    target = Path(out)
    budget = DEMO_KIMG if kimg is None else kimg
    check_range("kimg", budget, low=FEWEST_KIMG)
    check_range("seed", seed, low=0, integer=True)
    check_replaceable(target, _foreign, "out")
    seconds: dict[str, float] = {}
    example = example_folders()
    with _timed("load weights and photos", seconds):
        backbone = Backbone.from_pretrained(example.backbone)
        shape = backbone.fitted().config
        real = load_pairs(
            example.defects, example.masks, resolution=shape.resolution, channels=shape.channels
        )
    run_dir = _run_folder(target, budget, seed)
    stopped = (run_dir / RESUME_NAME).is_file()
    synth = DefectSynthesizer(
        backbone, kimg=budget, precision="auto", run_dir=run_dir, seed=seed, verbose=2
    )
    with _timed("train on from where it was stopped" if stopped else "train", seconds):
        synth.fit(example.defects, example.masks, resume=True)
    with _timed("sample", seconds):
        parts = synth.iter_samples(DEMO_SAMPLES, seed=seed, return_normals=True)
        samples = DefectBatch.concat(list(parts))
        placed = next(synth.iter_samples(_COLUMNS, seed=seed, good_images=example.good))
    with _timed("score", seconds):
        radius = receptive_radius(synth.branch_.resolutions[0], shape.resolution)
        scores = score_table(real, samples, radius)
    with _timed("measure the speed", seconds):
        speed = measure_speed(synth, real)
    result = DemoResult(
        folder=target,
        kimg=synth.config_["trained_kimg"],
        scores=scores,
        seconds=seconds,
        speed=speed,
        photos=len(real.names),
    )
    _write(result, _rows(real, samples, placed), samples, _metadata(synth), seed)
    _remove_run(run_dir)
    return result


# -- steps -----------------------------------------------------------------------------------------


def _write(
    result: DemoResult,
    rows: list[SheetRow],
    samples: DefectBatch,
    metadata: dict[str, object],
    seed: int,
) -> None:
    """Everything that a demo leaves behind; the time it takes is added to the result's."""
    with atomic_folder(result.folder, _foreign) as folder:
        with _timed("write pictures and sheet", result.seconds):
            write_samples([samples], folder, metadata=metadata)
            contact_sheet(rows, folder / SHEET_NAME, columns=_COLUMNS)
        (folder / REPORT_NAME).write_text(
            report(result, len(samples), seed), encoding="utf-8", newline="\n"
        )


def _metadata(synth: DefectSynthesizer) -> dict[str, object]:
    return {
        "truncation_psi": 1.0,
        "model_digest": tensor_digest(synthesizer_tensors(synth)),
        "backbone_digest": synth.backbone_digest_,
        "category": "hazelnut",
        "defect": "colour",
    }


def _rows(real: PairSet, samples: DefectBatch, placed: DefectBatch) -> list[SheetRow]:
    """Real pairs, then two groups of eight samples: image, mask and good twin below each other.

    Last eight samples on good photos.
    """
    images, masks, normals = samples.triplets()
    rows = [SheetRow("real defects, mask outlined", real.images[:16], real.masks[:16])]
    for first in (0, _COLUMNS):
        some = slice(first, first + _COLUMNS)
        title = f"generated {first} to {first + _COLUMNS - 1}, mask outlined"
        rows += [
            SheetRow(title, images[some], masks[some]),
            SheetRow("the same, without outline", images[some]),
            SheetRow("their masks", masks[some].float()),
            SheetRow("the same objects without defect", normals[some]),
        ]
    return [
        *rows,
        SheetRow("generated on good photos, mask outlined", placed.images, placed.masks),
        SheetRow("the same, without outline", placed.images),
    ]


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    """Log a step and keep its duration."""
    _logger.info("demo: %s", step)
    began = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - began


# -- output folder ---------------------------------------------------------------------------------


def _run_folder(target: Path, kimg: float, seed: int) -> Path:
    """Where the training of this very demo lies: one with other numbers has a folder of its own."""
    return run_beside(target) / f"{kimg:g}kimg_seed{seed}"


def _remove_run(run_dir: Path) -> None:
    """Remove a finished run, and the folder around it unless another run lies there."""
    try:
        shutil.rmtree(run_dir)
    except OSError as error:  # on Windows if somebody looks at a sheet
        said = f"{error.strerror or error} at {str(error.filename)!r}"
        warn(
            f"out: its run is done with and was to be removed; got {said}; remove {run_dir}",
            TrainingWarning,
        )
    with suppress(OSError):
        run_dir.parent.rmdir()


def _foreign(folder: Path) -> list[str]:
    """Names of what is not of a demo; all names where no report of one is."""
    names = sorted(entry.name for entry in folder.iterdir())
    if not _is_ours(folder / REPORT_NAME):
        return names
    files = METADATA_NAME, SHEET_NAME, REPORT_NAME
    parts = [name for name in ("images", "masks", "normals") if (folder / name).is_dir()]
    found = [name for name in names if name not in (*files, *parts)]
    for part in parts:
        inner = sorted(entry.name for entry in (folder / part).iterdir())
        found += [f"{part}/{name}" for name in inner if not _PICTURE.fullmatch(name)]
    return found


def _is_ours(report: Path) -> bool:
    if not report.is_file():
        return False
    with report.open("rb") as file:
        return file.readline(100).strip() == TITLE.encode()

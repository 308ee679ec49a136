"""The zoo's commands: what is in the list, and the whole experiment for a category of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from defectgen.data import MVTecAD, VisA
from defectgen.data.dataset import DefectData
from defectgen.errors import ConfigError
from defectgen.experiment import Experiment, Photos
from defectgen.experiment_report import summary_text
from defectgen.experiment_settings import Settings, read_record
from defectgen.files import atomic_file
from defectgen.registry import ZooRecord, zoo_record, zoo_records

#: What the summary of all experiments in a folder is called.
SUMMARY = "summary.md"


def list_lines() -> Iterator[str]:
    """A line for each entry: name, types of defect, license of the photos, state."""
    for record in zoo_records().values():
        count, there = len(record.defects), len(record.branches)
        state = f"{record.repo_id}, {there} of {count} branches"
        yield (
            f"{record.name:20} {count:2} defects  {record.data_license:16} "
            f"{state if record.published else 'not published yet'}"
        )
    yield f"{'demo':20}  the shipped hazelnut backbone, always there"


def show_lines(name: str) -> Iterator[str]:
    """All that is known of one entry.

    Raises:
        WeightsError: there is none of this name.
    """
    if name == "demo":
        yield "demo: the shipped hazelnut backbone: Backbone.from_pretrained('demo')"
        return
    record = zoo_record(name)
    changes = ", ".join(record.augment) or "none"
    yield f"{record.name}: {record.data}, {record.category}"
    yield f"defects: {', '.join(record.defects)}"
    yield f"true changes of orientation: {changes} ({record.because}); of color: none"
    yield f"resolution {record.resolution}, channels {record.channels}, recipe {record.recipe}"
    yield f"license of the photos: {record.data_license}"
    if record.published:
        yield f"{record.name}: {record.repo_id} at {record.revision}, {record.sha256}"
        for defect in record.defects:
            pin, name = record.branches.get(defect), record.branch_name(defect)
            at = f"{pin.repo_id} at {pin.revision}, {pin.sha256}" if pin else "not published yet"
            yield f"{name}: {at}"
    else:
        yield f"weights: not published yet; defectgen zoo train {record.name} --data PATH"


def photos_of(record: ZooRecord, data: Path) -> DefectData:
    """Read a category: ``data`` is the folder of the whole data set, or of this category.

    Raises:
        ImageError, MaskError: files are missing or cannot be used; all of them are listed.
    """
    home = data / record.category
    # The folder of one category, whatever it is called.
    root, name = (data, record.category) if home.is_dir() else (data.parent, data.name)
    return MVTecAD(root, name) if record.data == "MVTec AD" else VisA(root, name)


def train(names: Sequence[str], data: Path, out: Path, settings: Settings) -> str:
    """Run the experiment of each category that is not done, and return the summary of all.

    Every step is kept: a run that was stopped goes on when it is called again. Under ``torchrun``
    each rank takes its share of the categories, on a GPU of its own where there are some.

    Args:
        names: of the zoo.
        data: the data set, see `photos_of`.
        out: folder; each category gets one of its name in it, and ``summary.md`` lies beside.
        settings: budgets and the rest; without a resolution each entry's own.

    Raises:
        WeightsError: a name is not in the list.
        ImageError, MaskError: as `photos_of`.
        ConfigError: ``data`` is no folder, or has types of defect that the entry does not know.
    """
    if not data.is_dir():
        raise ConfigError(f"data: must be an existing folder; got {str(data)!r}; check the path")
    records = [zoo_record(name) for name in names]
    rank, world = _rank()
    settings = _placed(settings)
    for record in records[rank::world]:
        photos = photos_of(record, data)
        check_types(record, photos.defects)
        Experiment(
            record.name,
            Photos(photos.train_good, photos.defects),
            out / record.name,
            channels=record.channels,
            augment=record.augment,
            settings=replace(settings, resolution=settings.resolution or record.resolution),
        ).run()
    return _summary(out)


def check_types(record: ZooRecord, found: Iterable[str]) -> None:
    """Refuse photos of another product than the entry's.

    Raises:
        ConfigError: there is a type of defect that the entry does not know.
    """
    strange = sorted(set(found) - set(record.defects))
    if strange:
        raise ConfigError(
            f"data: must have types of defect of {record.name} only; got {', '.join(strange)}; "
            "check that it is the data set of the entry"
        )


def names_for(data: Path) -> list[str]:
    """Names of all categories of the zoo that lie in this folder.

    Raises:
        ConfigError: there are none.
    """
    there = [name for name, record in zoo_records().items() if (data / record.category).is_dir()]
    # Both data sets have categories of their own names only.
    if not there:
        raise ConfigError(
            f"data: must hold folders named as categories of MVTec AD or VisA; got {str(data)!r} "
            "without any; pass the folder of the data set"
        )
    return there


def _summary(out: Path) -> str:
    """The table of all reports in a folder, also written there; whoever ends last has them all."""
    found = sorted(out.glob("*/*/report.json"))
    text = summary_text([read_record(path, name=str, defects=dict) for path in found])
    with atomic_file(out / SUMMARY) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return text


def _rank() -> tuple[int, int]:
    """Rank and number of ranks, as torchrun names them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _placed(settings: Settings) -> Settings:
    """On the GPU of this rank, unless a device was asked for."""
    local = os.environ.get("LOCAL_RANK")
    if settings.device is None and local is not None and torch.cuda.is_available():
        return replace(settings, device=f"cuda:{int(local)}")
    return settings

"""What is checked of an experiment before it is published."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from defectgen.augment.policy import AugmentPolicy
from defectgen.backbone import Backbone
from defectgen.errors import ConfigError, WeightsError
from defectgen.experiment import REPORT, SETTINGS, Experiment, Settings
from defectgen.files import FOLDER_MARK, read_text
from defectgen.hub import check_push
from defectgen.registry import ZooRecord, slug

_MAX_BYTES = 1 << 20
_NONCOMMERCIAL = re.compile(r"-nc(-|$)")


def check_terms(record: ZooRecord, license: str, repo_id: str) -> None:  # noqa: A002
    """Find out what is wrong with license and names.

    Raises:
        ConfigError: no license or id, or a license that permits what that of the photos forbids.
    """
    for name in (repo_id, *(record.branch_repo(defect, repo_id) for defect in record.defects)):
        check_push(name, license, None)
    if record.noncommercial and not _NONCOMMERCIAL.search(license):
        raise ConfigError(
            f"license: must be a non-commercial one, with '-nc', for weights of {record.data}, "
            f"whose photos are {record.data_license}; got {license!r}; take "
            f"{record.data_license.lower()!r}"
        )


def check_writable(path: Path) -> None:
    """Refuse a list that cannot be replaced, or that its owner has marked as not to be.

    Raises:
        ConfigError: it is such a list.
    """
    path = path.resolve()  # what a link names is written, not the link
    marked = not path.stat().st_mode & 0o222
    if marked or not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise ConfigError(
            f"zoo: must be a list that you may write; got {str(path)!r}, which is read-only; copy "
            "it and pass the copy as --zoo FILE"
        )


def begun_settings(record: ZooRecord, data: Path, folder: Path, device: str | None) -> Settings:
    """What the experiment was begun with; it must be what the entry says.

    Raises:
        ConfigError: it is not, or the folder holds no experiment.
    """
    try:
        begun: dict[str, Any] = json.loads(read_text(folder / SETTINGS, _MAX_BYTES))
        numbers = {
            key: begun[key] for key in ("kimg", "defect_kimg", "precision", "samples", "seed")
        }
        found = {key: begun[key] for key in ("name", "resolution", "channels", "augment")}
    except FileNotFoundError as error:
        raise _unfinished(record, data, folder, [SETTINGS]) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"folder: must hold the {SETTINGS} of an experiment; got {str(folder)!r}, where it "
            "cannot be read; pass the folder that `defectgen zoo train` wrote"
        ) from error
    wanted = {
        "name": record.name,
        "resolution": record.resolution,
        "channels": record.channels,
        "augment": list(record.augment),
    }
    for field, value in wanted.items():
        if found[field] != value:
            raise ConfigError(
                f"folder: must be of the experiment of {record.name}, whose {field} is {value!r}; "
                f"got one with {found[field]!r} in {str(folder)!r}; pass its folder, or train it "
                f"as the entry says: `defectgen zoo train {record.name} --data {data}`"
            )
    return Settings(resolution=record.resolution, device=device, verbose=0, **numbers)


def check_finished(experiment: Experiment, record: ZooRecord, data: Path) -> None:
    """Refuse an experiment in which anything is left to do.

    Raises:
        ConfigError: it is one; the message lists what is missing.
    """
    weights = ("backbone", *(slug(defect) for defect in experiment.splits))
    names = [REPORT, *(f"{name}/{FOLDER_MARK}" for name in weights)]
    missing = [name for name in names if not (experiment.folder / name).is_file()]
    if missing:
        raise _unfinished(record, data, experiment.folder, missing)
    strange = sorted(set(experiment.splits) - set(record.defects))
    if strange:
        raise ConfigError(
            f"data: must have types of defect of {record.name} only; got {', '.join(strange)}; "
            "check that it is the data set of the entry"
        )


def _unfinished(record: ZooRecord, data: Path, folder: Path, missing: list[str]) -> ConfigError:
    return ConfigError(
        f"folder: must be that of a finished experiment; got {str(folder)!r} without "
        f"{', '.join(missing)}; {_command(record, data, folder)} first"
    )


def _command(record: ZooRecord, data: Path, folder: Path) -> str:
    """How to train what is missing: the folder is that of the category in ``--out``."""
    ends = folder.parts[-2:] == tuple(record.name.split("/"))
    out = f" --out {folder.parents[1]}" if ends else ""
    return f"run `defectgen zoo train {record.name} --data {data}{out}`"


def checked_weights(experiment: Experiment, record: ZooRecord) -> Backbone:
    """Load everything once; weights must have learned what the experiment says.

    Returns:
        The backbone.

    Raises:
        WeightsError: they are damaged, or others.
    """
    backbone = experiment.backbone()
    told = backbone.config_
    learned = {"backbone": (told["data"]["digest"], experiment.goods.digest)}
    for defect, (pairs, _) in experiment.splits.items():
        config = experiment.branch(backbone, defect).config_
        learned[slug(defect)] = (config["data"]["digest"], pairs.digest)
    strange = [name for name, (found, wanted) in learned.items() if found != wanted]
    shape, policy = told["backbone"], told["augment"]["policy"]
    kept = AugmentPolicy.from_dict(policy) == experiment.augment
    if strange or not kept or shape["resolution"] != record.resolution:
        raise WeightsError(
            f"folder: must hold weights of its own experiment; got others in "
            f"{', '.join(strange) or 'backbone'}; remove these, and train again"
        )
    return backbone

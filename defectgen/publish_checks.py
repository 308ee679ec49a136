"""What is checked of an experiment before it is published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from defectgen.augment.policy import AugmentPolicy
from defectgen.backbone import Backbone
from defectgen.errors import ConfigError, WeightsError
from defectgen.experiment import Experiment
from defectgen.experiment_cost import backbone_plan, branch_plan
from defectgen.experiment_settings import (
    REPORT,
    SETTINGS,
    Settings,
    lost_settings,
    read_record,
)
from defectgen.files import FOLDER_MARK
from defectgen.files import check_writable as probe_writable
from defectgen.hub import check_push
from defectgen.registry import ZOO_FILE, ZooRecord, slug, zoo_path
from defectgen.system import command_text
from defectgen.weights import entries_of

#: Arguments of the command that trains, by field of the settings.
_OPTIONS = {"kimg": "--kimg", "defect_kimg": "--defect-kimg", "seed": "--seed"}
_OPTIONS["precision"] = "--precision"


def check_terms(record: ZooRecord, license: str, repo_id: str) -> None:  # noqa: A002
    """Find out what is wrong with license and names.

    Raises:
        ConfigError: no license or id, or another license than that of non-commercial photos.
    """
    for name in (repo_id, *(record.branch_repo(defect, repo_id) for defect in record.defects)):
        check_push(name, license, None)
    # Share-alike: what is made of the photos may go on under their own license only.
    wanted = record.data_license.lower()
    if record.noncommercial and license != wanted:
        raise ConfigError(
            f"license: must be that of the photos for weights of {record.data}, which exclude "
            f"commercial use; got {license!r}; take {wanted!r}"
        )


def check_writable(path: Path) -> None:
    """Refuse a list that cannot be replaced, or that its owner has marked as not to be.

    Raises:
        ConfigError: it is such a list.
    """
    path = path.resolve()  # what a link names is written, not the link
    marked = not path.stat().st_mode & 0o222
    probe_writable(path, "zoo", folder=False)
    if marked or not os.access(path, os.W_OK):
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
        begun = read_record(folder / SETTINGS)
        numbers = {
            key: begun[key] for key in ("kimg", "defect_kimg", "precision", "samples", "seed")
        }
        found = {key: begun[key] for key in ("name", "resolution", "channels", "augment")}
    except FileNotFoundError as error:
        if there := [name for name in (REPORT, "backbone") if (folder / name).exists()]:
            raise lost_settings(folder, there) from error
        raise _unfinished(record, data, folder, [SETTINGS]) from error
    except KeyError as error:
        raise ConfigError(
            f"folder: must hold the {SETTINGS} of an experiment; got {str(folder)!r}, where it "
            f"has no {error}; pass the folder that `defectgen zoo train` wrote"
        ) from error
    wanted = {
        "name": record.name,
        "resolution": record.resolution,
        "channels": record.channels,
        "augment": list(record.augment),
    }
    train = ["defectgen", "zoo", "train", record.name, "--data", str(data)]
    for field, value in wanted.items():
        if found[field] != value:
            raise ConfigError(
                f"folder: must be of the experiment of {record.name}, whose {field} is {value!r}; "
                f"got one with {found[field]!r} in {str(folder)!r}; pass its folder, or train it "
                "as the entry says: "
                f"`{command_text(train)}` "
                "with another --out"
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
        raise _unfinished(record, data, experiment.folder, missing, experiment.settings)


def _unfinished(
    record: ZooRecord,
    data: Path,
    folder: Path,
    missing: list[str],
    settings: Settings | None = None,
) -> ConfigError:
    """The refusal, with the command that trains what is missing as it was begun.

    The folder is that of the category in ``--out``.
    """
    words = ["defectgen", "zoo", "train", record.name, "--data", str(data)]
    if folder.parts[-2:] == tuple(record.name.split("/")):
        words += ["--out", str(folder.parents[1])]
    if zoo_path() != ZOO_FILE:
        words += ["--zoo", str(zoo_path())]
    for field, option in _OPTIONS.items() if settings else ():
        value = getattr(settings, field)
        if value != getattr(Settings, field):
            words += [option, str(value)]
    return ConfigError(
        f"folder: must be that of a finished experiment; got {str(folder)!r} without "
        f"{', '.join(missing)}; run `{command_text(words)}` first"
    )


def checked_weights(experiment: Experiment, record: ZooRecord) -> Backbone:
    """Load everything once; weights must have learned what the experiment says.

    Returns:
        The backbone.

    Raises:
        WeightsError: they are damaged, or others.
    """
    backbone = experiment.backbone()
    given, told = experiment.settings, backbone.config_
    with entries_of(experiment.folder / "backbone"):
        plan = backbone_plan(backbone, given.kimg, given.seed)
        wanted = {"backbone": _run(experiment.goods.digest, plan.to_dict())}
        found = {"backbone": _run(told["data"]["digest"], told["training"])}
        plan = branch_plan(backbone, given.defect_kimg, given.seed)
    for defect, (pairs, _) in experiment.splits.items():
        config = experiment.branch(backbone, defect).config_
        with entries_of(experiment.folder / slug(defect)):
            wanted[slug(defect)] = _run(pairs.digest, plan.to_dict())
            found[slug(defect)] = _run(config["data"]["digest"], config["training"])
    strange = [name for name in wanted if found[name] != wanted[name]]
    shape, policy = told["backbone"], told["augment"]["policy"]
    kept = AugmentPolicy.from_dict(policy) == experiment.augment
    if strange or not kept or shape["resolution"] != record.resolution:
        raise WeightsError(
            f"folder: must hold weights of its own experiment; got others in "
            f"{', '.join(strange) or 'backbone'}; remove these, and train again"
        )
    return backbone


def _run(digest: str, training: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one run of an experiment from another: photos, budget, seed."""
    return digest, training["kimg"], training["seed"]

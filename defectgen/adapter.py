"""Synthesizers on disk: an adapter that names its backbone, or one self-contained folder."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from defectgen.backbone import Backbone
from defectgen.backbone_files import read_backbone
from defectgen.checks import check_range
from defectgen.config import DefectConfig
from defectgen.errors import ConfigError, DefectGenError, NotFittedError, WeightsError
from defectgen.estimator import resolve_device
from defectgen.files import safe_join
from defectgen.hub import (
    HubOptions,
    HubSource,
    Resolved,
    fetched,
    resolved,
)
from defectgen.moves import moves_from
from defectgen.networks.defect import DefectBranch
from defectgen.training.backbone_task import new_discriminator
from defectgen.training.defect_start import new_matching
from defectgen.weights import (
    BACKBONE_FOLDER,
    build_strict,
    entries_of,
    load_folder,
    read_config,
    save_folder,
    unclaimed,
)

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer


def hub_source(synth: DefectSynthesizer) -> HubSource | None:
    """The commit that holds the backbone of a fitted synthesizer, if one does."""
    backbone = synth.backbone_
    published = isinstance(backbone.source_, HubSource) and (
        backbone.source_digest_ == synth.backbone_digest_
    )
    return cast(HubSource, backbone.source_) if published else None


def _same_on_disk(source: Path | HubSource | None, digest: str, target: Path) -> bool:
    """Whether a backbone's folder holds just these weights, and will after ``target``."""
    if not isinstance(source, Path):
        return False
    if source.resolve().is_relative_to(target.resolve()):
        return False  # read from the folder that is about to be replaced
    try:
        config, _ = load_folder(source, "backbone")
    except DefectGenError:
        return False
    return bool(config["digest"] == digest)


def save_synthesizer(
    synth: DefectSynthesizer, folder: str | os.PathLike[str], include_backbone: bool | None
) -> None:
    """See `defectgen.DefectSynthesizer.save_pretrained`."""
    if not hasattr(synth, "branch_"):
        raise NotFittedError(
            "save_pretrained: fit(defect_imgs, masks) first; got an unfitted object; call fit."
        )
    backbone = synth.backbone_
    digest = backbone.digest()
    if digest != synth.backbone_digest_:
        raise ConfigError(
            "save_pretrained: the backbone as it was when the branch was trained; got one whose "
            "weights have changed since; fit again, or load both anew."
        )
    published = hub_source(synth)
    named = published is not None or _same_on_disk(backbone.source_, digest, Path(folder))
    if include_backbone is False and not named:
        raise ConfigError(
            "include_backbone: False only while the folder or repository the backbone was read "
            "from holds the same weights; got a backbone without such a folder; save_pretrained "
            "the backbone, read it from there, or include it."
        )
    include = not named if include_backbone is None else include_backbone
    source: str | dict[str, Any] | None = None
    if not include and published is not None:
        source = published.to_dict()
    elif not include and isinstance(backbone.source_, Path):
        source = str(backbone.source_.resolve())
    config = {
        "preset": synth.preset,
        "config": synth.config_,
        "backbone": {"included": include, "source": source, "digest": digest},
    }
    tensors = synthesizer_tensors(synth)
    if not include:
        save_folder(folder, "synthesizer", config, tensors)
        return
    with TemporaryDirectory() as temporary:
        inner = Path(temporary) / BACKBONE_FOLDER
        backbone.save_pretrained(inner)
        extra = {BACKBONE_FOLDER: inner}
        save_folder(folder, "synthesizer", config, tensors, include=extra)


def _networks(synth: DefectSynthesizer) -> dict[str, nn.Module]:
    """The networks of a synthesizer by their prefix in the file."""
    return {
        "branch": synth.branch_,
        "matching": synth.matching_,
        "discriminator": synth.discriminator_,
    }


def synthesizer_tensors(synth: DefectSynthesizer) -> dict[str, Tensor]:
    """All tensors of a fitted synthesizer by name, the backbone's left out."""
    tensors = {
        f"{part}.{name}": value.detach().cpu()
        for part, module in _networks(synth).items()
        for name, value in module.state_dict().items()
    }
    return {**tensors, **{f"codes.{name}": value for name, value in synth.codes_.items()}}


def load_synthesizer(
    cls: type[DefectSynthesizer],
    name: str | os.PathLike[str],
    options: HubOptions,
    device: str | torch.device | None,
) -> DefectSynthesizer:
    """See `defectgen.DefectSynthesizer.from_pretrained`."""
    resolve_device(device)  # before a download, which a wrong name would throw away
    if name == "demo" and not Path(name).is_dir():
        raise WeightsError(
            "name: demo is a backbone; got it for a synthesizer, of which none is shipped; fit "
            "DefectSynthesizer('demo') to photos of a defect"
        )
    with resolved(name, "synthesizer", options) as found:
        return _read_synthesizer(cls, found, options, device)


def _read_synthesizer(
    cls: type[DefectSynthesizer],
    found: Resolved,
    options: HubOptions,
    device: str | torch.device | None,
) -> DefectSynthesizer:
    folder = found.folder
    config, tensors = load_folder(folder, "synthesizer")
    with entries_of(folder):
        backbone = _load_backbone(found, config["backbone"], options, device)
        shape = backbone.fitted().config
        defect = DefectConfig.from_dict(config["config"]["defect"])
        moves_from(defect.moves)  # refused here and not at the first sample
        check_range("places", defect.places, low=1, high=1024, integer=True)
        check_range("bend", defect.bend, low=0.0, high=0.5)
        first = defect.first_resolution
        synth = cls(backbone, preset=config["preset"], first_resolution=first, device=device)
        synth.config_ = config["config"]
    unclaimed(tensors, ("codes", "branch", "matching", "discriminator"))
    where = str(folder)
    synth.branch_ = build_strict(lambda: DefectBranch(shape, defect), tensors, "branch", where)
    synth.matching_ = build_strict(lambda: new_matching(shape, defect), tensors, "matching", where)
    synth.discriminator_ = build_strict(
        lambda: new_discriminator(shape), tensors, "discriminator", where
    )
    synth.codes_ = {
        name.removeprefix("codes."): value
        for name, value in tensors.items()
        if name.startswith("codes.")
    }
    synth.backbone_, synth.backbone_digest_ = backbone, config["backbone"]["digest"]
    synth.history_ = []
    device_of = next(backbone.parameters()).device
    for module in _networks(synth).values():
        module.to(device_of).requires_grad_(False).eval()
    return synth


def _load_backbone(
    found: Resolved,
    entry: dict[str, Any],
    options: HubOptions,
    device: str | torch.device | None,
) -> Backbone:
    if entry["included"]:
        inner = safe_join(found.folder, BACKBONE_FOLDER)
        backbone = read_backbone(Backbone, Resolved(inner), device)
        if found.source is not None:
            backbone.source_ = None  # of a download that will have moved
    elif isinstance(entry["source"], dict):
        hub = HubSource.from_dict(entry["source"])
        pinned = replace(options, revision=hub.revision)
        with fetched(hub.repo_id, "backbone", pinned) as base:
            backbone = read_backbone(Backbone, base, device)
    else:
        *others, last = _places(found, entry["source"])
        for folder in others:
            try:
                backbone = read_backbone(Backbone, Resolved(folder), device)
            except WeightsError:
                continue  # damaged there; the last one says what is wrong
            if backbone.digest() == entry["digest"]:
                return backbone
        backbone = read_backbone(Backbone, Resolved(last), device)
    if backbone.digest() != entry["digest"]:
        raise WeightsError(
            f"backbone: the weights this branch was trained on ({entry['digest'][:19]}...); got "
            f"{backbone.digest()[:19]}...; restore them, or fit the branch again."
        )
    return backbone


def find_backbone(found: Resolved, entry: dict[str, Any]) -> Path | None:
    """Where the backbone of a branch lies on this machine; None for one that is downloaded.

    Told by what its config.json says: weights are not read.

    Raises:
        WeightsError: it is not there, or another one is.
    """
    if entry["included"]:
        return safe_join(found.folder, BACKBONE_FOLDER)
    if isinstance(entry["source"], dict):
        return None
    places = _places(found, entry["source"])
    for folder in places:
        with suppress(WeightsError):
            if read_config(folder, "backbone")["digest"] == entry["digest"]:
                return folder
    raise WeightsError(
        f"backbone: the one this branch was trained on ({entry['digest'][:19]}...); got another "
        f"in {str(places[-1])!r}; restore it, or fit the branch again"
    )


def _places(found: Resolved, source: str) -> list[Path]:
    """The folders in which the backbone may lie that config.json names by its path."""
    # What was downloaded may name no path of this machine; what was saved here never has "..".
    if found.source is not None or ".." in re.split(r"[/\\]", source):
        raise WeightsError(
            f"backbone: must be named by a path without '..', in a folder saved here; got "
            f"{source!r}; restore the config.json that save_pretrained wrote"
        )
    # A relative source is relative to the synthesizer's own folder.
    path = found.folder / source
    # An experiment that was moved or copied as a whole; the digest tells which is the right one.
    # It may come from a Windows machine, also to one whose paths are others.
    moved = found.folder.resolve().parent / PureWindowsPath(source).name
    there = [place for place in (path, moved) if place.is_dir()]
    if not there:
        raise WeightsError(
            f"backbone: the branch in {str(found.folder)!r} needs the backbone at {str(path)!r} "
            "or beside it under the same name; got neither; put it back, or save with "
            "include_backbone=True"
        )
    return there

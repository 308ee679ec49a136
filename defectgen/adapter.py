"""Synthesizers on disk: an adapter that names its backbone, or one self-contained folder."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from defectgen.backbone import Backbone
from defectgen.config import DefectConfig
from defectgen.errors import ConfigError, DefectGenError, NotFittedError, WeightsError
from defectgen.files import safe_join
from defectgen.networks.defect import DefectBranch
from defectgen.training.backbone_task import new_discriminator
from defectgen.training.defect_start import new_matching
from defectgen.weights import entries_of, load_folder, load_strict, save_folder, unclaimed

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer

#: Sub-folder that holds the backbone of a self-contained synthesizer.
BACKBONE_FOLDER = "backbone"


def _same_on_disk(source: Path | None, digest: str, target: Path) -> bool:
    """Whether a backbone's folder holds just these weights, and will after ``target``."""
    if source is None:
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
    """See :meth:`defectgen.DefectSynthesizer.save_pretrained`."""
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
    named = _same_on_disk(backbone.source_, digest, Path(folder))
    if include_backbone is False and not named:
        raise ConfigError(
            "include_backbone: False only while the folder the backbone was read from holds the "
            "same weights; got a backbone without such a folder; save_pretrained the backbone, "
            "read it from there, or include it."
        )
    include = not named if include_backbone is None else include_backbone
    source = None if include or backbone.source_ is None else str(backbone.source_.resolve())
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
    folder: str | os.PathLike[str],
    device: str | torch.device | None,
) -> DefectSynthesizer:
    """See :meth:`defectgen.DefectSynthesizer.from_pretrained`."""
    config, tensors = load_folder(folder, "synthesizer")
    with entries_of(folder):
        backbone = _load_backbone(Path(folder), config["backbone"], device)
        shape = backbone.fitted().config
        defect = DefectConfig.from_dict(config["config"]["defect"])
        first = defect.first_resolution
        synth = cls(backbone, preset=config["preset"], first_resolution=first, device=device)
        synth.config_ = config["config"]
    synth.branch_ = DefectBranch(shape, defect)
    synth.matching_ = new_matching(shape, defect)
    synth.discriminator_ = new_discriminator(shape)
    networks = _networks(synth)
    unclaimed(tensors, ("codes", *networks))
    for name, module in networks.items():
        load_strict(module, tensors, name, str(folder))
    synth.codes_ = {
        name.removeprefix("codes."): value
        for name, value in tensors.items()
        if name.startswith("codes.")
    }
    synth.backbone_, synth.backbone_digest_ = backbone, config["backbone"]["digest"]
    synth.history_ = []
    where = next(backbone.parameters()).device
    for module in networks.values():
        module.to(where).requires_grad_(False).eval()
    return synth


def _load_backbone(
    folder: Path, entry: dict[str, Any], device: str | torch.device | None
) -> Backbone:
    if entry["included"]:
        backbone = Backbone.from_pretrained(safe_join(folder, BACKBONE_FOLDER), device=device)
    else:
        # A relative source is relative to the synthesizer's own folder.
        backbone = Backbone.from_pretrained(folder / entry["source"], device=device)
    if backbone.digest() != entry["digest"]:
        raise WeightsError(
            f"backbone: the weights this branch was trained on ({entry['digest'][:19]}...); got "
            f"{backbone.digest()[:19]}...; restore them, or fit the branch again."
        )
    return backbone

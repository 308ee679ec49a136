"""Backbones on disk and on hubs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from defectgen.augment.policy import AugmentPolicy
from defectgen.config import BackboneConfig
from defectgen.estimator import resolve_device
from defectgen.hub import (
    CardFacts,
    HubOptions,
    Resolved,
    check_evaluation,
    check_push,
    push,
    resolved,
)
from defectgen.metrics.report import Evaluation
from defectgen.networks.synthesis import Generator
from defectgen.sheet import SheetRow, contact_sheet
from defectgen.training.backbone_task import new_discriminator
from defectgen.weights import build_strict, entries_of, load_folder, save_folder, unclaimed

if TYPE_CHECKING:
    from defectgen.backbone import Backbone

_B = TypeVar("_B", bound="StoredBackbone")


class StoredBackbone:
    """Gives a backbone its folders: saved, loaded, published."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``, whole or not at all.

        Args:
            folder: created, or replaced if it holds weights of ours and nothing else.

        Raises:
            NotFittedError: before ``fit``.
            ConfigError: for a folder with anything else.
            WeightsError: if a weight is not finite.
        """
        backbone = cast("Backbone", self)
        save_folder(folder, "backbone", self.config_for_file(), backbone.tensors())

    def config_for_file(self) -> dict[str, Any]:
        """What stands in ``config.json`` beside format, version and digest."""
        backbone = cast("Backbone", self)
        backbone.fitted()
        return {"preset": backbone.preset, "config": backbone.config_}

    @classmethod
    def from_pretrained(
        cls: type[_B],
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device: str | torch.device | None = None,
    ) -> _B:
        """Read saved or published weights.

        Args:
            name: an existing folder, a name of the zoo, or a repository id "owner/name".
            revision: branch, tag or commit of a repository; None: the newest of its main branch.
            cache_dir: where downloads are kept; None: where the hub's client keeps its own.
            token: None: the one the client knows, if any; False: none; never logged or stored.
            local_files_only: do without the network; HF_HUB_OFFLINE=1 does the same.
            force_download: download again what is in the cache.
            device: None takes a GPU where there is one.

        Raises:
            WeightsError: if the weights are missing, damaged, of another kind or version, or not
                those that were published; nothing of them is kept then.
            ConfigError: for arguments that contradict each other.
        """
        options = HubOptions(
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        resolve_device(device)  # before a download, which a wrong name would throw away
        with resolved(name, "backbone", options) as found:
            return cast(_B, read_backbone(cast("type[Backbone]", cls), found, device))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str,  # noqa: A002
        training_data: str | None = None,
        evaluation: Evaluation | None = None,
        private: bool = True,
        commit_message: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Publish the weights with a model card, in one commit.

        **The weights of the default recipe hold the mean and the principal components of the good
        photos, and few photos can be rebuilt from these; of a texture they hold up to 512 of
        them, less their shading.** Publish them only where the photos may be published; a
        repository is private unless you say otherwise.

        Args:
            repo_id: "owner/name"; made if there is none.
            license: of the weights, as hubs name it: "cc-by-4.0", "other".
            training_data: for the card: what the photos show, whose they are, under which terms.
            evaluation: what `defectgen.evaluation.evaluate_backbone` returned, for the card.
            private: only you see a new repository; a public one that exists is refused.
            commit_message: None: one that names the library.
            token: None: the one the hub's client knows; it must be allowed to write.

        Returns:
            The commit; as ``revision`` it loads these weights whatever is pushed later.

        Raises:
            NotFittedError: before ``fit``.
            ConfigError: for an argument outside its rule.
            WeightsError: the hub refuses, or cannot be reached.
        """
        backbone = cast("Backbone", self)
        check_push(repo_id, license, token)
        digest = backbone.digest()
        check_evaluation(evaluation, digest)
        sheet = contact_sheet(
            [SheetRow("generated, seeds 0 to 15", backbone.sample(16, seed=0))], columns=8
        )
        facts = CardFacts(
            kind="backbone",
            license=license,
            training_data=training_data,
            evaluation=evaluation,
            config=backbone.config_,
            digest=digest,
            holds=_holds(backbone),
        )
        return push(
            repo_id,
            backbone.save_pretrained,
            sheet,
            facts,
            private=private,
            commit_message=commit_message,
            token=token,
        )


def read_backbone(
    cls: type[Backbone], found: Resolved, device: str | torch.device | None
) -> Backbone:
    """Read the folder of a backbone, strictly; see `StoredBackbone.from_pretrained`."""
    folder = found.folder
    config, tensors = load_folder(folder, "backbone")
    with entries_of(folder):
        shape = BackboneConfig.from_dict(config["config"]["backbone"])
        AugmentPolicy.from_dict(config["config"]["augment"]["policy"])
        backbone = cls(shape.resolution, channels=shape.channels, device=device)
        backbone.preset = config["preset"]
        backbone.config_ = config["config"]
    backbone.history_ = []
    unclaimed(tensors, ("generator", "discriminator"))
    where = str(folder)
    backbone.generator = build_strict(lambda: Generator(shape), tensors, "generator", where)
    backbone.discriminator = build_strict(
        lambda: new_discriminator(shape), tensors, "discriminator", where
    )
    backbone.source_ = folder if found.source is None else found.source
    backbone.source_digest_ = config["digest"]
    backbone.to(resolve_device(device))
    return backbone.freeze()


def _holds(backbone: Backbone) -> str:
    """What the weights give away of the training photos."""
    base = backbone.fitted().synthesis.base
    if base is None:
        return (
            "No photo of the training is stored as such; networks trained on few may still draw "
            "some of them again."
        )
    if base.grain is not None:
        return (
            f"These weights hold {len(base.grain.fields)} of the good photos, or mirrored ones, "
            "less their shading (the tensors generator.synthesis.base.*): whoever has the weights "
            "can see them."
        )
    return (
        f"These weights hold the mean and up to {len(base.components)} principal components of "
        "the good photos (the tensors generator.synthesis.base.*): if the photos are few, they can "
        "be rebuilt."
    )

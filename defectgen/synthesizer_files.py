"""Synthesizers saved, loaded and published: the methods."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from PIL import Image

from defectgen.adapter import (
    hub_source,
    load_synthesizer,
    save_synthesizer,
    synthesizer_tensors,
)
from defectgen.batch import DefectBatch
from defectgen.errors import ConfigError
from defectgen.hub import CardFacts, HubOptions, check_evaluation, check_push, push
from defectgen.metrics.report import Evaluation
from defectgen.sheet import SheetRow, contact_sheet
from defectgen.weights import tensor_digest

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer

_S = TypeVar("_S", bound="StoredSynthesizer")


class StoredSynthesizer:
    """Gives a synthesizer its folders: saved, loaded, published."""

    def save_pretrained(
        self, folder: str | os.PathLike[str], include_backbone: bool | None = None
    ) -> None:
        """Write the defect branch, and the backbone or where to find it, whole or not at all.

        Args:
            folder: created, or replaced if it holds weights of ours and nothing else.
            include_backbone: None: unless it came unchanged from a folder or a repository.

        Raises:
            NotFittedError: before ``fit``.
            ConfigError: for a folder with anything else, or ``include_backbone=False`` and a
                backbone that cannot be named.
        """
        save_synthesizer(cast("DefectSynthesizer", self), folder, include_backbone)

    @classmethod
    def from_pretrained(
        cls: type[_S],
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device: str | torch.device | None = None,
    ) -> _S:
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
            WeightsError: if the weights or their backbone are missing, damaged, of another kind or
                version, or not those that were published; nothing of them is kept then.
            ConfigError: for arguments that contradict each other.
        """
        options = HubOptions(
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        kind = cast("type[DefectSynthesizer]", cls)
        return cast(_S, load_synthesizer(kind, name, options, device))

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
        include_backbone: bool | None = None,
    ) -> str:
        """Publish the weights with a model card, in one commit.

        **The weights of the default recipe hold the training photos of defects and their masks, and
        whoever may download the weights has them.** Publish them only where the photos may be
        published; a repository is private unless you say otherwise.

        Args:
            repo_id: "owner/name"; made if there is none.
            license: of the weights, as hubs name it: "cc-by-4.0", "other".
            training_data: for the card: what the photos show, whose they are, under which terms.
            evaluation: what `evaluate` of these weights returned, for the card.
            private: only you see a new repository; a public one that exists is refused.
            commit_message: None: one that names the library.
            token: None: the one the hub's client knows; it must be allowed to write.
            include_backbone: None: unless the backbone came from a repository, which is named then.

        Returns:
            The commit; as ``revision`` it loads these weights whatever is pushed later.

        Raises:
            NotFittedError: before ``fit``.
            ConfigError: for an argument outside its rule.
            WeightsError: the hub refuses, or cannot be reached.
        """
        synth = cast("DefectSynthesizer", self)
        check_push(repo_id, license, token)
        sheet = _sheet(synth)
        named = hub_source(synth)
        include = named is None if include_backbone is None else include_backbone
        if not include and named is None:
            raise ConfigError(
                "include_backbone: False only for a backbone that came from a repository; got one "
                "that no other machine can find; push the backbone and fit on its name, or include "
                "it."
            )
        facts = CardFacts(
            kind="synthesizer",
            license=license,
            training_data=training_data,
            evaluation=evaluation,
            config=synth.config_,
            digest=_digest(synth, evaluation),
            holds=_holds(synth),
            base=None if include or named is None else named.repo_id,
        )
        return push(
            repo_id,
            lambda folder: save_synthesizer(synth, folder, include),
            sheet,
            facts,
            private=private,
            commit_message=commit_message,
            token=token,
        )


def _sheet(synth: DefectSynthesizer) -> Image.Image:
    """Samples of fixed seeds: no picture of the training."""
    batch = DefectBatch.concat(list(synth.iter_samples(16, return_normals=True, seed=0)))
    images, masks, normals = batch.triplets()
    rows = [
        SheetRow("generated, seeds 0 to 15", images, masks),
        SheetRow("without outline", images),
        SheetRow("the same without defect", normals),
    ]
    return contact_sheet(rows, columns=8)


def _digest(synth: DefectSynthesizer, evaluation: Evaluation | None) -> str:
    """Digest of all tensors; ConfigError for an evaluation of other weights."""
    digest = tensor_digest(synthesizer_tensors(synth))
    check_evaluation(evaluation, digest)
    return digest


def _holds(synth: DefectSynthesizer) -> str:
    """What the weights give away of the training photos."""
    if synth.branch_.known is None:
        return (
            "No photo of the training is stored as such; networks trained on so few may still draw "
            "some of them again."
        )
    count = len(synth.branch_.known.images)
    return (
        f"These weights hold the {count} training photos of defects with their masks (the tensors "
        "branch.known.*): whoever has the weights has the photos."
    )

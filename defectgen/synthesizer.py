"""``DefectSynthesizer``: learns one defect type on a frozen backbone, samples image and mask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from defectgen.backbone import Backbone
from defectgen.checks import check_range
from defectgen.config import defect_training
from defectgen.data.images import load_pairs
from defectgen.data.sources import ImageSource
from defectgen.defect_fit import (
    Learned,
    build_task,
    decisions,
    defect_policy,
    run_task,
    say_if_not_learned,
)
from defectgen.errors import ConfigError, NotFittedError, TrainingError
from defectgen.estimator import (
    Parameters,
    check_budget,
    check_manner,
    load_resumed,
    own_folder,
    resolve_device,
    resolve_seed,
    run_precision,
)
from defectgen.evaluation import Evaluated
from defectgen.networks.defect import DefectBranch
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.synthesis import Generator
from defectgen.synthesizer_files import StoredSynthesizer
from defectgen.synthesizer_sampling import Sampled
from defectgen.training.defect_task import DefectTask


class DefectSynthesizer(Sampled, Evaluated, StoredSynthesizer, Parameters):
    """Unlimited pairs of defect image and exact mask, learned from 5 to 25 photos.

    Masks are those of the photos, moved and bent, and the weights hold these photos: publish
    neither without the right to. With the preset masks are learned.

    Args:
        backbone: a fitted `Backbone`, or the name of one: a folder, a name of
            the zoo, or a repository id "owner/name"; read at each ``fit``.
        preset: None for this library's recipe; "dfmgan" for the published one.
        kimg: budget, thousands of images shown. None: 8 below 128 px, 200 from there up;
            the preset 400.
        batch_size: None: 16; the preset 32.
        precision: "fp32"; "bf16", faster on hardware that has it; "auto": "bf16" on such a CPU.
        first_resolution: lowest resolution the branch manipulates, a power of two from 8 to the
            image's. None: a quarter of the image's.
        warm_start: continue from the branch of the last ``fit`` or of ``from_pretrained``.
        run_dir: folder for history, contact sheets and the resume file; None writes nothing.
        seed: None draws one; it is kept in ``config_``.
        device: None takes the GPU where there is one.
        verbose: 0 silent, 1 speed as a line and a bar on a terminal, 2 a bar everywhere.

    Attributes:
        branch_ (DefectBranch): the moving average of the trained branch, of its best snapshot.
        backbone_ (Backbone): the backbone that was used; a later ``fit`` of the one given does not
            change it.
        config_ (dict[str, Any]): everything that was decided.
        history_ (list[dict[str, float]]): one record per tick; "area/fake" is the mean mask area,
            "score" what snapshots are chosen by: distance of patches to the photos, and mask areas.
    """

    def __init__(
        self,
        backbone: Backbone | str | os.PathLike[str],
        *,
        preset: str | None = None,
        kimg: float | None = None,
        batch_size: int | None = None,
        precision: str = "fp32",
        first_resolution: int | None = None,
        warm_start: bool = False,
        run_dir: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        device: str | torch.device | None = None,
        verbose: int = 1,
    ) -> None:
        self.backbone, self.preset, self.precision = backbone, preset, precision
        self.kimg, self.batch_size, self.first_resolution = kimg, batch_size, first_resolution
        self.warm_start, self.run_dir, self.seed = warm_start, run_dir, seed
        self.device, self.verbose = device, verbose

    # -- learning ----------------------------------------------------------------------------------

    def fit(
        self, defect_imgs: ImageSource, masks: ImageSource, resume: bool = False
    ) -> DefectSynthesizer:
        """Learn the defect from photos and masks; the backbone is not changed by a byte.

        Args:
            defect_imgs: folder, paths, PIL images, HWC uint8 arrays, or one NCHW tensor.
            masks: likewise, one for each image; folders pair by equal stem or stem + "_mask".
            resume: go on with the run in ``run_dir``; begins one if there is none.

        Returns:
            self, with its attributes set. An interrupt or a training that diverged is raised; they
            then hold the last good state.

        Raises:
            ConfigError: for a parameter outside its rule.
            ImageError, MaskError: listing every unusable file.
            TrainingError: if training diverged; the last good state is kept.
        """
        check_budget(self.preset, self.kimg, self.batch_size, self.precision)
        check_manner(self.seed, self.device, self.verbose)
        if self.first_resolution is not None:
            check_range("first_resolution", self.first_resolution, low=8, integer=True)
        with own_folder(self.run_dir) as run_dir:
            return self._fit(defect_imgs, masks, resume, run_dir)

    def _fit(
        self, defect_imgs: ImageSource, masks: ImageSource, resume: bool, run_dir: Path | None
    ) -> DefectSynthesizer:
        resumed = load_resumed(run_dir, resume, self.verbose)
        backbone = self._resolve_backbone()
        shape = backbone.fitted().config
        pairs = load_pairs(defect_imgs, masks, resolution=shape.resolution, channels=shape.channels)
        digest = backbone.digest()
        learned = self._learned(digest)
        warm = learned is None or not learned.knows(pairs)
        earlier = self.config_["trained_kimg"] if learned is not None else 0.0
        if resumed is not None:  # as when the run began, whatever was learned since
            warm = resumed["state"]["config"]["warm_kimg"] > 0
            earlier = resumed["continued_from_kimg"]
        device = resolve_device(self.device)
        train = defect_training(
            shape,
            preset=self.preset,
            kimg=self.kimg,
            batch_size=self.batch_size,
            seed=resolve_seed(self.seed, resumed),
            warm=warm,
            precision=run_precision(self.precision, device, resumed),
        )
        policy, first = defect_policy(self.preset, backbone), self.first_resolution
        task = build_task(backbone.to(device), pairs, train, policy, self.preset, first, learned)
        decided = decisions(task, pairs, policy, earlier)
        if resumed is None:
            say_if_not_learned(task, self.verbose)
        try:
            run_task(task, pairs, policy, digest, run_dir, resumed, self.verbose, earlier)
        except (TrainingError, KeyboardInterrupt):
            self._take_over(task, backbone, digest, decided)
            raise
        self._take_over(task, backbone, digest, decided)
        return self

    def _take_over(
        self, task: DefectTask, backbone: Backbone, digest: str, decided: dict[str, Any]
    ) -> None:
        """Set the learned attributes from the state as it is."""
        self.branch_ = task.average.eval()
        self.discriminator_: Discriminator = task.judge
        self.matching_ = task.matcher
        self.codes_ = task.codes()
        self.backbone_, self.backbone_digest_ = backbone.snapshot(), digest
        kimg = decided["continued_from_kimg"] + task.state.images / 1000
        self.config_: dict[str, Any] = {**decided, "trained_kimg": kimg}
        self.history_ = task.state.history

    def _learned(self, backbone_digest: str) -> Learned | None:
        """What an earlier fit left to continue from."""
        if not self.warm_start or not hasattr(self, "branch_"):
            return None
        if backbone_digest != self.backbone_digest_:
            raise ConfigError(
                "warm_start: the backbone whose weights the branch was trained on; got another; "
                "take that one, or warm_start=False."
            )
        digest = self.config_["data"]["digest"]
        return Learned(self.branch_, self.discriminator_, self.matching_, self.codes_, digest)

    def _resolve_backbone(self) -> Backbone:
        if isinstance(self.backbone, Backbone):
            return self.backbone
        if not isinstance(self.backbone, (str, os.PathLike)):
            raise ConfigError(
                "backbone: a Backbone, or the name of its folder or repository; got an object of "
                f"type {type(self.backbone).__name__}; pass one of these."
            )
        return Backbone.from_pretrained(self.backbone, device=self.device)

    # -- use ---------------------------------------------------------------------------------------

    def _fitted(self) -> tuple[Generator, DefectBranch]:
        if not hasattr(self, "branch_"):
            raise NotFittedError(
                "DefectSynthesizer: fit(defect_imgs, masks) or from_pretrained(dir) first; "
                "got neither; call one of them."
            )
        return self.backbone_.fitted(), self.branch_

    def __sklearn_clone__(self) -> DefectSynthesizer:
        """A clone shares the backbone: copied by its parameters, that would be an unfitted one."""
        return DefectSynthesizer(**self.get_params())

    def __sklearn_is_fitted__(self) -> bool:
        """Whether ``sample`` would work."""
        return hasattr(self, "branch_")

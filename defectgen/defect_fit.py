"""One fit of a defect: networks new or continued, and the supervised run."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import POLICIES, AugmentPolicy
from defectgen.augment.symmetry import with_symmetries
from defectgen.backbone import Backbone
from defectgen.backbone_fit import JUDGED
from defectgen.backgrounds import learned_by
from defectgen.batch import DefectBatch
from defectgen.config import TrainConfig, defect_config
from defectgen.data.images import PairSet
from defectgen.data.sampler import InfiniteSampler
from defectgen.errors import ConfigError
from defectgen.estimator import Run, to_signed
from defectgen.messages import say
from defectgen.metrics.swd import patch_distance
from defectgen.moves import BEND, FREE_BEND, allowed_moves
from defectgen.networks.defect import DefectBranch
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.known import REGION
from defectgen.networks.precision import in_precision
from defectgen.placement import PLACES
from defectgen.regions import KEPT
from defectgen.rng import sample_seeds
from defectgen.sampling import SAMPLE_BATCH, defect_sheet, iter_defects
from defectgen.training.defect_start import continued, new_networks, set_mask_bias
from defectgen.training.defect_task import DefectTask
from defectgen.training.footprint import GAME, IMPOSED, warn_if_short
from defectgen.training.imposed_task import ImposedTask
from defectgen.training.phases import Batch

#: A budget that takes seconds, for a branch that draws nothing.
SOON = 0.1


@dataclass(frozen=True, eq=False)
class Learned:
    """What an earlier fit left to continue from.

    Attributes:
        branch: moving average of the defect branch.
        judge: discriminator of images.
        matching: discriminator of image-mask pairs.
        codes: learned codes of the training pairs; they serve only for the same pairs.
        digest: of those pairs.
    """

    branch: DefectBranch
    judge: Discriminator
    matching: Discriminator
    codes: dict[str, Tensor]
    digest: str

    def knows(self, pairs: PairSet) -> bool:
        """Whether the codes are those of these pairs; without any there is nothing to build on."""
        return bool(self.codes) and self.digest == pairs.digest


def defect_policy(preset: str | None, backbone: Backbone) -> AugmentPolicy:
    """What may be done to defect images: what the good images have shown to be true of the part."""
    if preset == "dfmgan":
        return POLICIES["bgc"]
    return AugmentPolicy.from_dict(backbone.config_["augment"]["policy"])


def build_task(
    backbone: Backbone,
    pairs: PairSet,
    train: TrainConfig,
    policy: AugmentPolicy,
    preset: str | None,
    first_resolution: int | None,
    learned: Learned | None,
) -> DefectTask:
    """Networks, fresh or copied from ``learned``, with their training state."""
    network, judge = backbone.networks()
    device = network.mapping.w_avg.device
    images, masks = pairs.images, pairs.masks
    if preset is None:
        images, masks = with_symmetries(images, policy), with_symmetries(masks, policy)
    if learned is None:
        shape = defect_config(network.config, preset, first_resolution)
        if preset is None:
            # Backbones of format 1 do not know their layout.
            layout = backbone.config_["data"].get("layout")
            moves = allowed_moves(policy, turned=layout != "texture")
            bend = FREE_BEND if layout == "free" else BEND
            shape = replace(shape, known=len(images), moves=moves, places=PLACES, bend=bend)
        branch, judges = new_networks(network.config, shape, judge, train.seed)
    else:
        if bool(learned.branch.config.known) == (preset == "dfmgan"):
            raise ConfigError(
                "warm_start: the preset with which the branch was learned; got "
                f"preset={preset!r}; take the other one, or warm_start=False."
            )
        branch = continued(learned.branch, network.config, len(images))
        begins = branch.resolutions[0]
        if first_resolution not in (None, begins):
            raise ConfigError(
                f"first_resolution: None or {begins}, where the branch begins that warm_start "
                f"continues; got {first_resolution}; take that one, or warm_start=False."
            )
        judges = copy.deepcopy(learned.judge), copy.deepcopy(learned.matching)
    for module in (branch, *judges):
        module.to(device)
    known = branch.known is not None
    if learned is None and train.mask_bias and not known:
        set_mask_bias(network, branch, float(pairs.masks.float().mean()), train.seed)
    real, real_masks = to_signed(images, device), masks.to(device).bool()
    kind = ImposedTask if known else DefectTask
    task = kind(network, branch, judges, train, real, real_masks, AugmentPipe(policy))
    if learned is not None and learned.knows(pairs):
        task.load_codes(learned.codes)
    return task


def decisions(
    task: DefectTask, pairs: PairSet, policy: AugmentPolicy, earlier_kimg: float
) -> dict[str, Any]:
    """Everything that was decided, for ``config_``."""
    return {
        "backbone": task.backbone.config.to_dict(),
        "defect": task.branch.config.to_dict(),
        "training": task.config.to_dict(),
        "augment": policy.to_dict(),
        "data": {
            "digest": pairs.digest,
            "pairs": len(pairs.names),
            "shown": len(task.images),
            "mask_area": float(pairs.masks.float().mean()),
        },
        "continued_from_kimg": earlier_kimg,
    }


def say_if_not_learned(task: DefectTask, verbose: int) -> None:
    """Tell, before the time is spent, that samples will not need what is trained."""
    known, average = task.branch.known, task.average.known
    if known is None or average is None:
        return
    average.learned = learned_by(task.backbone, known)
    if not known.learned and task.config.kimg > SOON:
        say(
            "defect: the backbone's good parts do not explain these photos, so samples show their "
            f"defects as they are, moved onto places that fit; kimg={SOON} is as good as more",
            verbose,
        )


def judged(pairs: PairSet, samples: DefectBatch) -> float:
    """Score of a snapshot, lower is better: distance of patches, and masks of another area.

    Patches of whole images and training images only; a mean mask area that differs by a factor f
    multiplies the distance by f, so that of two snapshots the one with sound masks wins.
    """
    masks = cast(Tensor, samples.masks)
    area, real = float(masks.float().mean()), float(pairs.masks.float().mean())
    factor = max(area, real) / max(min(area, real), 1e-6)
    return patch_distance(pairs.images, samples.images) * factor


def run_task(
    task: DefectTask,
    pairs: PairSet,
    policy: AugmentPolicy,
    backbone_digest: str,
    run_dir: Path | None,
    resumed: dict[str, Any] | None,
    verbose: int,
    continued_from_kimg: float,
) -> None:
    """Train ``task`` from its beginning, or from where ``resumed`` ended."""
    config, shape = task.config, task.branch.config
    sampler = InfiniteSampler(len(task.images), config.batch_size, config.seed)
    device = task.images.device

    def batches(iteration: int) -> Batch:
        index = sampler.indices(iteration).to(device)
        return Batch(task.images[index], index, task.masks[index])

    def draw(path: Path) -> None:
        defect_sheet(path, task.backbone, task.average, pairs)

    def judge() -> float:
        parts = iter_defects(
            task.backbone,
            task.average,
            sample_seeds(JUDGED, 0),
            1.0,
            normals=False,
            batch_size=SAMPLE_BATCH,
            precision=config.precision,
            by_branch=True,  # what is trained is judged
        )
        return judged(pairs, DefectBatch.concat(list(parts)))

    known = task.branch.known
    kind = IMPOSED if known is not None else GAME
    rule = f", in textures {KEPT} of them kept" if known is not None and known.texture else ""
    warn_if_short(task.backbone.config, config, kind, task.state.weights(), device)
    run = Run(
        title="defect",
        kind="synthesizer",
        identity={
            "data": pairs.digest,
            "augmentation": str(policy),
            "backbone": backbone_digest,
            "first_resolution": str(task.branch.resolutions[0]),
            "placement": f"{shape.places} places, bends of {shape.bend}, moves {shape.moves!r}, "
            f"regions above {REGION}{rule}",
        },
        run_dir=run_dir,
        verbose=verbose,
        draw=draw,
        judge=judge,
        continued_from_kimg=continued_from_kimg,
    )
    with in_precision(config.precision):
        run.execute(task.state, batches, task.phases(), resumed)

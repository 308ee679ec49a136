"""One fit of a backbone: fresh networks and the supervised run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import POLICIES, AugmentPolicy, measure_policy
from defectgen.config import BackboneConfig, TrainConfig
from defectgen.data.images import ImageSet
from defectgen.data.sampler import InfiniteSampler
from defectgen.estimator import Run, to_signed
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.precision import in_precision
from defectgen.networks.synthesis import Generator
from defectgen.rng import generator
from defectgen.sampling import backbone_sheet
from defectgen.training.backbone_task import BackboneTask, new_discriminator
from defectgen.training.phases import Batch


def new_networks(config: BackboneConfig, seed: int) -> tuple[Generator, Discriminator]:
    """Generator and discriminator with weights drawn from the seed."""
    network = Generator(config)
    network.reset(generator(seed, "generator"))
    judge = new_discriminator(config)
    judge.reset(generator(seed, "discriminator"))
    return network, judge


def choose_policy(
    augment: str | AugmentPolicy, preset: str | None, images: Tensor
) -> tuple[AugmentPolicy, str]:
    """The augmentation policy, and one sentence saying why."""
    if isinstance(augment, AugmentPolicy):
        return augment, "given by the caller"
    if augment != "auto":
        return POLICIES[augment], f"augment={augment!r}"
    if preset == "dfmgan":
        return POLICIES["bgc"], "preset dfmgan: the published pipeline"
    return measure_policy(images)


def build_task(
    config: BackboneConfig,
    train: TrainConfig,
    images: Tensor,
    policy: AugmentPolicy,
    device: torch.device,
) -> BackboneTask:
    """Fresh networks with their training state on the device; ``images`` are uint8."""
    network, judge = new_networks(config, train.seed)
    real = to_signed(images, device)
    return BackboneTask((network.to(device), judge.to(device)), train, real, AugmentPipe(policy))


def run_task(
    task: BackboneTask,
    data: ImageSet,
    policy: AugmentPolicy,
    run_dir: Path | None,
    resumed: dict[str, Any] | None,
    verbose: int,
) -> None:
    """Train ``task`` from its beginning, or from where ``resumed`` ended."""
    config, real = task.config, task.images
    sampler = InfiniteSampler(len(real), config.batch_size, config.seed)

    def batches(iteration: int) -> Batch:
        index = sampler.indices(iteration).to(real.device)
        return Batch(real[index], index)

    def draw(path: Path) -> None:
        backbone_sheet(path, task.average, data)

    run = Run(
        title="backbone",
        kind="backbone",
        identity={"data": data.digest, "augmentation": str(policy)},
        run_dir=run_dir,
        verbose=verbose,
        draw=draw,
    )
    with in_precision(config.precision):
        run.execute(task.state, batches, task.phases(), resumed)

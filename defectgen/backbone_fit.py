"""One fit of a backbone: fresh networks and the supervised run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import POLICIES, AugmentPolicy, measure_policy
from defectgen.config import BackboneConfig, TrainConfig
from defectgen.data.images import ImageSet
from defectgen.data.sampler import InfiniteSampler
from defectgen.errors import TrainingWarning
from defectgen.estimator import Run, to_signed
from defectgen.messages import say, warn
from defectgen.metrics.swd import level_distances, patch_distance
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.precision import in_precision
from defectgen.networks.synthesis import Generator
from defectgen.rng import generator, sample_seeds
from defectgen.sampling import backbone_sheet, draw_good
from defectgen.training.backbone_task import BackboneTask, new_discriminator
from defectgen.training.footprint import GAME, warn_if_short
from defectgen.training.phases import Batch

#: Share of the variance that the mean image has: of a part in a fixed pose at least, of a texture
#: at most. Measured: bottles 0.99, hazelnuts in any pose 0.72, tiles, fabric, circuits 0 to 0.01.
ALIGNED, TEXTURE = 0.9, 0.2
#: Samples by which a snapshot is judged.
JUDGED = 64
#: Samples are far from the photos if, at one of the scales, their patches are so many times as far
#: from those of the photos as some photos' are from the others', in the mean of so many splits, of
#: so many images. Measured at 64 px: bottles and hazelnuts 1.0, tiles 1.9 and 2.2, circuits with
#: blobs instead of lines 5.6; of 64 images these have 2.7, for single ones differ too much.
FAR, SPLITS, COMPARED = 4.0, 4, 128
#: Compared are pictures of at most so many pixels a side, drawn so many at a time: of larger ones
#: the comparison would take more memory than the training.
SIDE, DRAWN = 128, 16
#: Fewer photos have no distance worth that name, and a smaller distance is none.
FEWEST, NOTHING = 8, 1.0


def new_networks(config: BackboneConfig, seed: int) -> tuple[Generator, Discriminator]:
    """Generator and discriminator with weights drawn from the seed."""
    network = Generator(config)
    network.reset(generator(seed, "generator"))
    judge = new_discriminator(config)
    judge.reset(generator(seed, "discriminator"))
    return network, judge


def measure_layout(images: Tensor) -> tuple[str, str]:
    """Whether images (n, C, R, R) uint8 show a part in a fixed pose, in many poses, or a texture.

    The mean of images of a part in a fixed pose shows the part; that of windows of a texture shows
    nothing. Measured by the share of the variance over pixels and images that the mean image has.

    Returns:
        "aligned", "free" or "texture", and one sentence that says why.
    """
    values = images.float()
    total = (values - values.mean(dim=(2, 3), keepdim=True)).square().mean()
    mean = values.mean(dim=0)
    shown = (mean - mean.mean(dim=(1, 2), keepdim=True)).square().mean()
    # A mean of n images keeps 1 / n of what they do not share: without that, few look aligned.
    n, raw = len(values), float(shown / total.clamp_min(1e-12))
    share = max(0.0, (n * raw - 1) / (n - 1)) if n > 1 else raw
    layout = "aligned" if share >= ALIGNED else "free" if share > TEXTURE else "texture"
    meaning = {"aligned": "a fixed pose", "free": "many poses", "texture": "a texture"}[layout]
    return layout, f"the mean image has {share:.0%} of the variance: {meaning}."


def choose_layout(preset: str | None, images: Tensor, verbose: int) -> str:
    """The layout of the images; the recipe of this library depends on it, and says so."""
    layout, why = measure_layout(images)
    if preset is None:
        say(f"layout: {why}", verbose)
    return layout


def choose_policy(
    augment: str | AugmentPolicy, preset: str | None, images: Tensor, verbose: int
) -> tuple[AugmentPolicy, str]:
    """The augmentation policy, and one sentence saying why, which is said as well."""
    if isinstance(augment, AugmentPolicy):
        policy, reason = augment, "given by the caller"
    elif augment != "auto":
        policy, reason = POLICIES[augment], f"augment={augment!r}"
    elif preset == "dfmgan":
        policy, reason = POLICIES["bgc"], "preset dfmgan: the published pipeline"
    else:
        policy, reason = measure_policy(images)
    say(f"augmentation: {reason}", verbose)
    return policy, reason


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


def decisions(
    task: BackboneTask, data: ImageSet, policy: AugmentPolicy, reason: str, layout: str
) -> dict[str, Any]:
    """Everything that was decided, for ``config_``."""
    return {
        "backbone": task.network.config.to_dict(),
        "training": task.config.to_dict(),
        "augment": {"policy": policy.to_dict(), "reason": reason},
        "data": {
            "digest": data.digest,
            "images": len(data.names),
            "shown": len(task.images),
            "layout": layout,
        },
    }


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

    def judge() -> float:
        drawn = draw_good(task.average, sample_seeds(JUDGED, 0), 1.0)
        return patch_distance(data.images, drawn)

    warn_if_short(task.network.config, config, GAME, task.state.weights(), real.device)
    run = Run(
        title="backbone",
        kind="backbone",
        identity={"data": data.digest, "augmentation": str(policy)},
        run_dir=run_dir,
        verbose=verbose,
        draw=draw,
        judge=judge,
    )
    with in_precision(config.precision):
        run.execute(task.state, batches, task.phases(), resumed)


def warn_if_far(network: Generator, images: Tensor, kimg: float) -> None:
    """Say so if what was learned in ``kimg`` does not look like ``images``, uint8 (n, C, R, R).

    Warns:
        TrainingWarning: with the ratio of distances.
    """
    if len(images) < FEWEST:
        return
    part, side = min(COMPARED, len(images) // 2), min(images.shape[-1], SIDE)
    seeds = sample_seeds(part, 0)
    drawn = torch.cat(
        [
            F.adaptive_avg_pool2d(draw_good(network, seeds[k : k + DRAWN], 1.0), side)
            for k in range(0, part, DRAWN)
        ]
    )
    images = F.adaptive_avg_pool2d(images.float(), side).round().to(torch.uint8)
    sums = torch.zeros(2, 1)
    for split in range(SPLITS):
        order = torch.randperm(len(images), generator=generator(0, "split", split))
        others, some = images[order[part:]], images[order[:part]].float() / 255
        sums = sums + torch.tensor([level_distances(others, one) for one in (drawn, some)])
    ratio = float((sums[0] / sums[1].clamp_min(SPLITS * NOTHING)).max())
    if ratio > FAR:
        warn(
            "good_images: samples should be about as near to the photos as these are to one "
            f"another; got {ratio:.1f} times as far (distance of patches), so the backbone has not "
            "learned the product, and defects on it will look no better; open a contact sheet, and "
            f"train longer: kimg={2 * kimg:g}",
            TrainingWarning,
        )

"""Networks and training tasks of one size, in our formulation or in the textbook's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.textbook import as_textbook
from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import POLICIES
from defectgen.config import (
    BackboneConfig,
    backbone_config,
    backbone_training,
    defect_config,
    defect_training,
)
from defectgen.networks.layers import constant_weights
from defectgen.networks.synthesis import Generator
from defectgen.rng import SampleNoise, generator, latents, sample_seeds
from defectgen.sampling import to_unit
from defectgen.training.backbone_task import BackboneTask, new_discriminator
from defectgen.training.defect_start import new_networks
from defectgen.training.defect_task import DefectTask
from defectgen.training.loop import _step
from defectgen.training.phases import Batch

#: Real images of a case; their content costs nothing.
IMAGES = 32
#: Batches of one call that samples; what follows from weights alone is computed once for all.
SAMPLE_BATCHES = 4
#: Probability of augmentation: adaptive in a real run, usual for some hundred images.
ADA_P = 0.3


@dataclass(frozen=True)
class Size:
    """What is measured: a preset at a resolution, and how many images at once."""

    name: str
    resolution: int
    preset: str | None
    batch: int

    @property
    def config(self) -> BackboneConfig:
        """Shape of the backbone."""
        return backbone_config(self.resolution, 3, self.preset)


LARGE = Size("256 px, published widths", 256, "dfmgan", 4)
SMALL = Size("64 px, the demo's widths", 64, None, 16)


class Case:
    """Both stages of one size.

    Args:
        size: see there.
        textbook: build the baseline.
        batch: images per step and per pass; None takes the size's.
    """

    def __init__(self, size: Size, *, textbook: bool, batch: int | None = None) -> None:
        self.size, self.batch = size, size.batch if batch is None else batch
        config = size.config
        source = torch.Generator().manual_seed(0)
        self.images = torch.rand(IMAGES, 3, *[size.resolution] * 2, generator=source) * 2 - 1
        self.masks = torch.zeros(IMAGES, 1, *[size.resolution] * 2, dtype=torch.bool)
        quarter = size.resolution // 4
        self.masks[:, :, quarter : 2 * quarter, quarter : 2 * quarter] = True
        self.network = Generator(config)
        self.network.reset(generator(0, "generator"))
        with torch.no_grad():  # a trained network has found its noise, and its colors
            for name, parameter in self.network.named_parameters():
                if name.endswith("noise_strength"):
                    parameter.fill_(0.1)
                elif name.endswith("to_rgb.weight") and not parameter.any():
                    parameter.normal_(0, 0.1, generator=source)
        judge = new_discriminator(config)
        judge.reset(generator(0, "discriminator"))
        self.branch, judges = new_networks(config, defect_config(config, size.preset), judge, 0)
        everything: list[nn.Module] = [self.network, judge, self.branch, *judges]
        if textbook:
            for network in everything:
                as_textbook(network)
        pipe = AugmentPipe(POLICIES["bgc"])
        shared = {"preset": size.preset, "kimg": 10.0, "batch_size": self.batch, "seed": 0}
        self.tasks: dict[str, BackboneTask | DefectTask] = {
            "backbone": BackboneTask(
                (self.network, judge), backbone_training(config, **shared), self.images, pipe
            ),
            "defect": DefectTask(
                self.network,
                self.branch,
                judges,
                defect_training(config, **shared, warm=True),
                self.images,
                self.masks,
                pipe,
            ),
        }
        self.networks = (*everything, *(t.average for t in self.tasks.values()))
        for task in self.tasks.values():
            task.state.ada.p = ADA_P

    def sample(self) -> Tensor:
        """Good parts in batches, as ``Backbone.sample`` draws them, in [0, 1]."""
        with constant_weights(self.network):
            firsts = range(0, SAMPLE_BATCHES * self.batch, self.batch)
            parts = [self.images_of(sample_seeds(self.batch, first)) for first in firsts]
            return torch.cat([to_unit(part) for part in parts])

    @torch.no_grad()
    def images_of(self, seeds: tuple[int, ...]) -> Tensor:
        """Images of these seeds, nominally in [-1, 1]."""
        z = latents(seeds, self.size.config.z_dim, "object")
        return self.network(z, SampleNoise(seeds))

    def graph_pass(self) -> None:
        """One pass in the form that training uses, whose FLOP are the nominal ones."""
        ws = self.network.broadcast(self.network.mapping(torch.zeros(1, self.size.config.z_dim)))
        self.network.synthesis(ws.detach().requires_grad_(), SampleNoise((0,)))

    @contextmanager
    def without_augmentation(self) -> Iterator[None]:
        """Steps inside leave images as they are: their matrix products are no work of networks."""
        for task in self.tasks.values():
            task.state.ada.p = 0.0
        try:
            yield
        finally:
            for task in self.tasks.values():
                task.state.ada.p = ADA_P

    def phases(self, stage: str) -> dict[str, tuple[int, Callable[[], object]]]:
        """Phases of the adversarial part of a stage: name -> (interval, one step)."""
        task = self.tasks[stage]
        index = torch.arange(self.batch) % IMAGES
        masks = self.masks[index] if stage == "defect" else None
        batch = Batch(self.images[index], index, masks)
        return {
            phase.name: (phase.interval, lambda phase=phase: _step(task.state, phase, batch))
            for phase in task.phases()
            if phase.last is None
        }

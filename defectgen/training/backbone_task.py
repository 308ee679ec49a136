"""How a backbone learns a product: reconstruction warm start, then StyleGAN2-ADA."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen import losses
from defectgen.augment.pipe import AdaptiveProbability, AugmentPipe
from defectgen.config import BackboneConfig, TrainConfig
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.mapping import CodeMapping, mix_styles
from defectgen.networks.synthesis import Generator
from defectgen.rng import GeneratorNoise, generator
from defectgen.training.adversarial import (
    Codes,
    Critic,
    draw,
    fit_mapping,
    principal_codes,
)
from defectgen.training.phases import Batch, Phase, lazy_adam, lazy_phase, warm_adam
from defectgen.training.state import TrainState

#: Keys of a backbone's codes are so long: between two poses lies none, so one of them is taken.
KEY_LENGTH = 6.0
#: A linear mapping is fitted to the codes in about so many steps; with fewer it is set to them.
FIT_STEPS = 100


def new_discriminator(config: BackboneConfig) -> Discriminator:
    """The discriminator of a backbone: mirrored widths."""
    return Discriminator(
        config.resolution,
        config.channels,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        minibatch_group=config.minibatch_group,
        clamp=config.clamp,
        half_resolutions=config.half_resolutions,
    )


class BackboneTask:
    """State and phases of backbone training.

    Args:
        networks: freshly drawn generator and discriminator, changed in place.
        config: resolved numbers.
        images: (n, C, R, R) in [-1, 1] on the training device.
        pipe: augmentation in front of the discriminator.
    """

    def __init__(
        self,
        networks: tuple[Generator, Discriminator],
        config: TrainConfig,
        images: Tensor,
        pipe: AugmentPipe,
    ) -> None:
        self.network, self.judge = networks
        self.config, self.images = config, images
        device = images.device
        source = torch.Generator(device=device)
        source.manual_seed(generator(config.seed, "training").initial_seed())
        self.codes = self._codes(source).to(device)
        if self.network.synthesis.base is not None:
            self.network.synthesis.base.set(images, self.codes.table)
        self.average = copy.deepcopy(self.network)
        for module in (self.network, self.judge, self.average, self.codes):
            module.requires_grad_(False)
        self.state = TrainState(
            config,
            {"generator": self.network, "discriminator": self.judge, "codes": self.codes},
            {"generator": self.average},
            self._optimizers(),
            AdaptiveProbability(
                target=config.ada_target, ada_kimg=config.ada_kimg, cap=config.ada_cap
            ),
            source,
        )
        self.critic = Critic(self.state, self.judge, pipe, adapts=True)

    def _codes(self, source: torch.Generator) -> Codes:
        """One code per image, where the principal components put it."""
        config, mapping = self.network.config, self.network.mapping
        linear = config.mapping_layers == 0 and not isinstance(mapping, CodeMapping)
        starts = principal_codes(self.images, config.w_dim, config.z_dim, source, linear=linear)
        if isinstance(mapping, CodeMapping):
            return Codes.of(mapping, starts[0], KEY_LENGTH * starts[1])
        codes = Codes(*starts, linear=linear)
        steps = self.config.warm_kimg * 1000 / self.config.batch_size
        # Drawn at random it varies more than the codes do, from which a long game has more; a
        # short run, or one without reconstruction, cannot unlearn it (docs/lab-notes.md).
        if linear and steps < FIT_STEPS:
            mapping.set(*codes.line())
        if config.grain_fields:  # the base is made for codes that z can draw, for they stay
            codes.project()
        return codes

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        c, g = self.config, self.network
        return {
            "G": lazy_adam(
                g.parameters(), rate=c.learning_rate, beta2=c.beta2, interval=c.path_interval
            ),
            "D": lazy_adam(
                self.judge.parameters(),
                rate=c.learning_rate,
                beta2=c.beta2,
                interval=c.r1_interval,
            ),
            "synthesis": warm_adam(g.synthesis.parameters(), c.warm_learning_rate),
            # The mapping's rate multiplier of 1/100 is undone: it is fitted here, not played with.
            "mapping": warm_adam(g.mapping.parameters(), 100 * c.warm_learning_rate),
            "codes": warm_adam(self.codes.parameters(), 2 * c.warm_learning_rate),
        }

    def phases(self) -> list[Phase]:
        """All phases, in the order in which they run within an iteration."""
        c = self.config
        warm = round(c.warm_kimg * 1000)
        # The discriminator starts a little before the generator listens to it.
        early = round(0.9 * warm)
        found = [
            Phase(
                name="reconstruction",
                optimizers=("synthesis", "codes"),
                loss=self._reconstruction,
                last=warm,
            ),
            Phase(name="G", optimizers=("G",), loss=self._generator, first=warm),
            Phase(name="D", optimizers=("D",), loss=self._discriminator, first=early),
        ]
        # A blend of codes needs no fit.
        if not isinstance(self.network.mapping, CodeMapping):
            fit = Phase(
                name="mapping fit", optimizers=("mapping",), loss=self._mapping_fit, last=warm
            )
            found.insert(1, fit)
        found += lazy_phase("path length", "G", self._path_length, c.path_interval, warm)
        return found + lazy_phase("R1", "D", self._r1, c.r1_interval, early)

    def _noise(self) -> GeneratorNoise:
        return GeneratorNoise(self.state.generator)

    def _latents(self, count: int) -> Tensor:
        """w of fresh z with style mixing, (count, L, W)."""
        source, mapping = self.state.generator, self.network.mapping
        z = draw((2, count, self.network.config.z_dim), source)
        ws = self.network.broadcast(mapping(z[0], update_mean=True))
        return mix_styles(ws, mapping(z[1]), self.config.style_mixing, source)

    def _anchor(self, index: Tensor) -> Tensor:
        """L1 on the pyramid between learned codes' renders and their images."""
        w = self.codes(index, self.state.generator)
        fake = self.network.synthesis(self.network.broadcast(w), self._noise())
        real, cell = self.images[index], self.config.anchor_cell
        if cell > 1:
            fake, real = F.avg_pool2d(fake, cell), F.avg_pool2d(real, cell)
        return losses.pyramid_l1(fake, real)

    def _reconstruction(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self._anchor(batch.index)
        return loss, {"loss/reconstruction": loss}

    def _mapping_fit(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = fit_mapping(self.network.mapping, self.codes, self.state.generator)
        return loss, {"loss/mapping": loss}

    def _generator(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        fake = self.network.synthesis(self._latents(len(batch.images)), self._noise())
        loss = self.critic.fooled(fake)
        scalars = {"loss/G": loss}
        if self.config.anchor_weight:
            anchor = self._anchor(batch.index[: max(1, len(batch.index) // 4)])
            scalars["loss/reconstruction"] = anchor
            loss = loss + self.config.anchor_weight * anchor
        return loss, scalars

    def _discriminator(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            fake = self.network.synthesis(self._latents(len(batch.images)), self._noise())
        return self.critic.main(fake, None, batch, "D")

    def _r1(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.critic.r1(batch, self.config.r1_gamma, paired=False, name="D")

    def _path_length(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        ws = self._latents(max(1, len(batch.images) // 2))
        fake = self.network.synthesis(ws, self._noise())
        lengths = losses.path_lengths(fake, ws, draw(fake.shape, self.state.generator))
        penalty, mean = losses.path_penalty(lengths, self.state.path_mean, self.config.path_decay)
        if bool(torch.isfinite(mean)):
            self.state.path_mean = mean
        return self.config.path_weight * penalty, {"path/length": lengths.mean()}

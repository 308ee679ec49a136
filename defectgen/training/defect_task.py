"""How a branch learns a defect as published: adversarially, against two discriminators.

The backbone is frozen throughout: its parameters never require gradients, its running averages are
not touched, and it is no part of the state.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from defectgen import losses
from defectgen.augment.pipe import AdaptiveProbability, AugmentPipe
from defectgen.config import TrainConfig
from defectgen.networks.defect import DefectBranch, DefectPass
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.mapping import mix_styles
from defectgen.networks.synthesis import Generator
from defectgen.rng import FirstRows, GeneratorNoise, Noise, generator
from defectgen.training.adversarial import Critic, draw, mean_area
from defectgen.training.phases import Batch, Phase, lazy_adam, lazy_phase
from defectgen.training.state import TrainState


class DefectTask:
    """State and phases of defect training.

    Args:
        backbone: frozen generator.
        branch: trained, changed in place.
        judges: discriminator of images (from the backbone) and of image-mask pairs, both trained.
        config: resolved numbers.
        images: (n, C, R, R) in [-1, 1] on the training device.
        masks: bool (n, 1, R, R).
        pipe: augmentation in front of the image discriminator, and with ``match_augment`` paired
            in front of the matching one.
    """

    def __init__(
        self,
        backbone: Generator,
        branch: DefectBranch,
        judges: tuple[Discriminator, Discriminator],
        config: TrainConfig,
        images: Tensor,
        masks: Tensor,
        pipe: AugmentPipe,
    ) -> None:
        self.backbone, self.branch, self.config = backbone, branch, config
        self.judge, self.matcher = judges
        self.images, self.masks = images, masks
        source = torch.Generator(device=images.device)
        source.manual_seed(generator(config.seed, "training").initial_seed())
        trained = {"branch": branch, "discriminator": self.judge, "matching": self.matcher}
        trained.update(self._begin(source))
        self.average = copy.deepcopy(branch)
        for module in (*trained.values(), self.average):
            module.requires_grad_(False)
        self.state = TrainState(
            config,
            trained,
            {"branch": self.average},
            self._optimizers(),
            AdaptiveProbability(
                target=config.ada_target, ada_kimg=config.ada_kimg, cap=config.ada_cap
            ),
            source,
        )
        self.critic = Critic(self.state, self.judge, pipe, adapts=True)
        paired = pipe if config.match_augment else None
        self.match_critic = Critic(self.state, self.matcher, paired, adapts=False)

    def _begin(self, source: torch.Generator) -> dict[str, nn.Module]:
        """Prepare the branch; return what is trained beside it."""
        return {}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        c, b = self.config, self.branch
        g_interval = c.path_interval
        judges = {
            name: lazy_adam(
                judge.parameters(), rate=c.learning_rate, beta2=c.beta2, interval=c.r1_interval
            )
            for name, judge in (("D", self.judge), ("D_match", self.matcher))
        }
        return {
            "G": lazy_adam(
                b.parameters(), rate=c.learning_rate, beta2=c.beta2, interval=g_interval
            ),
            **judges,
        }

    def phases(self) -> list[Phase]:
        """All phases, in the order in which they run within an iteration."""
        c = self.config
        warm = round(c.warm_kimg * 1000)
        early = round(0.9 * warm)  # the discriminators start before the branch listens to them
        found = [
            Phase(name="G", optimizers=("G",), loss=self._generator, first=warm),
            Phase(name="D", optimizers=("D",), loss=self._discriminator, first=early),
            Phase(name="D_match", optimizers=("D_match",), loss=self._matching, first=early),
        ]
        found += lazy_phase("path length", "G", self._path_length, c.path_interval, warm)
        found += lazy_phase("R1", "D", self._r1, c.r1_interval, early)
        return found + lazy_phase("R1 match", "D_match", self._r1_match, c.r1_interval, early)

    def codes(self) -> dict[str, Tensor]:
        """Learned codes, to continue with later on the same pairs; none if none were used."""
        return {}

    def load_codes(self, codes: dict[str, Tensor]) -> None:
        """Continue with the codes of an earlier fit on the same pairs."""

    def _objects(self, count: int) -> Tensor:
        """Object latents with style mixing, (count, L, W); the running mean is not touched."""
        source, mapping = self.state.generator, self.backbone.mapping
        z = draw((2, count, self.backbone.config.z_dim), source)
        ws = self.backbone.broadcast(mapping(z[0]))
        return mix_styles(ws, mapping(z[1]), self.config.style_mixing, source)

    def _defects(self, count: int) -> Tensor:
        """Defect latents with style mixing, (count, L', W)."""
        source, mapping = self.state.generator, self.branch.mapping
        z = draw((2, count, self.backbone.config.z_dim), source)
        ws = self.branch.broadcast(mapping(z[0], update_mean=True))
        return mix_styles(ws, mapping(z[1]), self.config.style_mixing, source)

    def _render(self, objects: Tensor, defects: Tensor, noise: Noise) -> tuple[Tensor, DefectPass]:
        hook = self.branch.start(defects, noise)
        image = self.backbone.synthesis(objects, noise, hook)
        return image, hook

    def _on(self, objects: Tensor) -> Tensor:
        """Fresh defects on these objects."""
        return self._render(objects, self._defects(len(objects)), self._noise())[0]

    def soft_mask(self, logits: Tensor) -> Tensor:
        """tanh(k * m), what the matching discriminator and mode seeking see, (N, 1, R, R)."""
        return torch.tanh(self.branch.config.mask_steepness * logits)

    def _noise(self, *, keep: bool = False) -> GeneratorNoise:
        return GeneratorNoise(self.state.generator, keep=keep)

    # -- losses of the phases ----------------------------------------------------------------------

    def _generator(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        c, count = self.config, len(batch.images)
        objects, defects, noise = self._objects(count), self._defects(count), self._noise(keep=True)
        fake, hook = self._render(objects, defects, noise)
        mask = self.soft_mask(hook.final_logits)
        image_loss = self.critic.fooled(fake)
        match_loss = self.match_critic.fooled(fake, mask)
        loss = image_loss + c.match_weight * match_loss
        scalars = {
            "loss/G": image_loss,
            "loss/G_match": match_loss,
            "area/fake": hook.mask.float().mean(),
            "area/real": mean_area(batch),
        }
        if c.mode_seeking_weight and count > 1:
            seeking = self._mode_seeking(objects, defects, noise, mask)
            loss = loss + c.mode_seeking_weight * seeking
            scalars["loss/mode_seeking"] = seeking
        return loss, scalars

    def _mode_seeking(
        self, objects: Tensor, defects: Tensor, noise: GeneratorNoise, mask: Tensor
    ) -> Tensor:
        """Objects of half a with the defects of half b, and the noise that half a had before."""
        half = len(objects) // 2
        planes = FirstRows(noise, len(objects), half)
        synthesis, branch = self.backbone.synthesis, self.branch
        x_in = synthesis.entering(branch.resolutions[0], objects[:half], planes)
        other = branch.final_logits(x_in, defects[half : 2 * half], planes)
        return losses.mode_seeking(
            defects[:half],
            defects[half : 2 * half],
            mask[:half],
            self.soft_mask(other),
            self.config.mode_seeking_epsilon,
        )

    def _seen(self, batch: Batch) -> Batch:
        """What the discriminators take for real."""
        return batch

    def _discriminator(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        count = len(batch.images)
        with torch.no_grad():
            fake, _ = self._render(self._objects(count), self._defects(count), self._noise())
        return self.critic.main(fake, None, self._seen(batch), "D")

    def _matching(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        count = len(batch.images)
        with torch.no_grad():
            fake, hook = self._render(self._objects(count), self._defects(count), self._noise())
        mask = self.soft_mask(hook.final_logits)
        return self.match_critic.main(fake, mask, self._seen(batch), "D_match")

    def _r1(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.critic.r1(self._seen(batch), self.config.r1_gamma, paired=False, name="D")

    def _r1_match(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        seen = self._seen(batch)
        return self.match_critic.r1(seen, self.config.r1_gamma, paired=True, name="D_match")

    def _path_length(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Path length with respect to the object latents, as published."""
        count = max(1, len(batch.images) // 2)
        objects = self._objects(count).detach().requires_grad_(True)
        fake = self._on(objects)
        lengths = losses.path_lengths(fake, objects, draw(fake.shape, self.state.generator))
        penalty, mean = losses.path_penalty(lengths, self.state.path_mean, self.config.path_decay)
        if bool(torch.isfinite(mean)):
            self.state.path_mean = mean
        return self.config.path_weight * penalty, {"path/length": lengths.mean()}

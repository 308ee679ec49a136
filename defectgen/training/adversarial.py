"""What both kinds of training share: discriminator terms, learned codes, the fit of f: Z -> W."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen import losses
from defectgen.augment.pipe import AugmentPipe
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.mapping import CodeMapping, MappingNetwork, blend
from defectgen.training.phases import Batch
from defectgen.training.state import TrainState

#: Learned codes are disturbed by this share of their spread while they are learned: the synthesis
#: then works around codes as well as at them.
CODE_JITTER = 0.1


class Codes(nn.Module):
    """One learned latent per training image: what the reconstruction terms start from.

    Each code also has a fixed key on a sphere of Z, from the principal components of the
    images, so that images that look alike have keys that lie close.

    Attributes:
        table: (n, W), learned.
        keys: (n, Z), fixed: rows of one length, or with `linear` scores of unit variance.
        linear: codes follow one normal distribution instead of lying near each other in groups.
    """

    keys: Tensor

    def __init__(self, table: Tensor, keys: Tensor, *, linear: bool = False) -> None:
        super().__init__()
        self.linear = linear
        self.table = nn.Parameter(table.clone())
        self.register_buffer("keys", keys.clone())

    @classmethod
    def of(cls, mapping: CodeMapping, starts: Tensor, keys: Tensor) -> Codes:
        """The codes that a mapping blends: learned there and here as one."""
        codes = cls(starts, keys)
        with torch.no_grad():
            if not torch.equal(mapping.table, starts):  # else they were learned before
                mapping.w_avg.copy_(starts.mean(dim=0))  # the center of truncation
            mapping.table.copy_(starts)
            mapping.keys.copy_(keys)
        codes.table = mapping.table
        return codes

    def forward(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Jittered codes of these images, (N, W)."""
        w = self.table[index]
        spread = self.table.detach().std(dim=0, unbiased=False)
        return w + CODE_JITTER * spread * draw(w.shape, generator)

    def blend(self, z: Tensor) -> Tensor:
        """softmax(beta * <key_i, z>) @ table: the code nearest to z, mixed with its neighbors.

        z (N, Z) is scaled to length sqrt(Z); the result (N, W) is what the mapping network has to
        give for z, if fresh z are to fall where the synthesis has learned to draw. With `linear`
        mean(table) + z @ (keys^T table) / n: as normally distributed as the codes are.
        """
        if self.linear:
            z = F.normalize(z, dim=1) * z.shape[1] ** 0.5
            matrix, mean = self.line()
            return mean + z @ matrix
        return blend(z, self.keys) @ self.table

    @torch.no_grad()
    def project(self) -> None:
        """Leave of the codes what the linear map of `blend` makes of their keys."""
        matrix, mean = self.line()
        self.table.copy_(mean + self.keys @ matrix)

    def line(self) -> tuple[Tensor, Tensor]:
        """The linear map of `blend`: matrix (Z, W) and mean (W,)."""
        mean = self.table.mean(dim=0)
        return self.keys.t() @ (self.table - mean) / len(self.table), mean


def draw(size: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers on the generator's device."""
    return torch.randn(size, generator=generator, device=generator.device)


def principal_codes(
    images: Tensor, w_dim: int, z_dim: int, generator: torch.Generator, *, linear: bool = False
) -> tuple[Tensor, Tensor]:
    """Start codes (n, W) and keys (n, Z) from principal components of 8 px pictures of the images.

    Component k has the spread sqrt(s_k / s_1) in the codes, its fourth root in the keys; where
    there are fewer components than dimensions, small noise stands in. With ``linear`` the keys are
    the plain scores, of unit variance.
    """
    flat = F.avg_pool2d(images, max(1, images.shape[-1] // 8)).flatten(1)
    flat = flat - flat.mean(dim=0)
    u, s, _ = torch.linalg.svd(flat.double(), full_matrices=False)
    rank = int((s > 1e-6 * s[0].clamp_min(1e-12)).sum())
    scores = (u[:, :rank] * len(flat) ** 0.5).to(flat.dtype)
    share = (s[:rank] / s[0].clamp_min(1e-12)).to(flat.dtype)
    result = []
    for dim, root in ((w_dim, 0.5), (z_dim, 0.25)):
        values = 0.1 * draw((len(flat), dim), generator)
        kept = min(rank, dim)
        values[:, :kept] += scores[:, :kept] * share[:kept] ** root
        result.append(values)
    if linear:
        keys = torch.zeros_like(result[1])
        keys[:, : min(rank, z_dim)] = scores[:, :z_dim]
        return result[0], keys
    return result[0], F.normalize(result[1], dim=1)


def fit_mapping(
    mapping: MappingNetwork | CodeMapping,
    codes: Codes,
    generator: torch.Generator,
    count: int = 256,
) -> Tensor:
    """E[||f(z) - blend(z)||^2]: fresh z fall where the synthesis has learned to draw."""
    z = draw((count, mapping.z_dim), generator)
    w = mapping(z, update_mean=True)
    distance: Tensor = (w - codes.blend(z).detach()).square().sum(dim=1)
    return distance.mean()


class Critic:
    """A discriminator with its augmentation: the terms of its own phases.

    Args:
        state: of the run; its ADA probability is used and, with ``adapts``, fed.
        network: judges images, or images with the mask as last channel.
        pipe: augmentation; None for none.
        adapts: whether this critic's outputs on real data move the probability.
    """

    def __init__(
        self, state: TrainState, network: Discriminator, pipe: AugmentPipe | None, *, adapts: bool
    ) -> None:
        self.state, self.network, self.pipe, self.adapts = state, network, pipe, adapts

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Logits (N, 1) of augmented images (N, C, H, W), or pairs with masks in [-1, 1]."""
        p, generator = self.state.ada.p, self.state.generator
        if self.pipe is not None and p > 0:
            if masks is None:
                images = self.pipe(images, p=p, generator=generator)
            else:
                images, masks = self.pipe(images, p=p, generator=generator, masks=masks)
        pair = images if masks is None else torch.cat([images, masks], dim=1)
        logits: Tensor = self.network(pair)
        return logits

    def fooled(self, fake: Tensor, masks: Tensor | None = None) -> Tensor:
        """Logistic loss of a generator of these images, or pairs, with its gradient.

        The gradient is computed here and not when the loss is differentiated, so two critics of
        the same images never hold their features at the same time.
        """
        given = [fake] if masks is None else [fake, masks]
        leaves = [x.detach().requires_grad_(True) for x in given]
        loss = losses.generator_logistic(self(*leaves))
        gradients = torch.autograd.grad(loss, leaves)
        return _Known.apply(loss.detach(), *gradients, *given)  # type: ignore[no-any-return,no-untyped-call]

    def main(
        self, fake: Tensor, fake_masks: Tensor | None, batch: Batch, name: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logistic loss of the discriminator on fakes and a real batch."""
        real_masks = None if fake_masks is None else signed(batch)
        fake_logits = self(fake, fake_masks)
        real_logits = self(batch.images, real_masks)
        if self.adapts:
            self.state.ada.accumulate(real_logits.detach())
        loss = losses.discriminator_logistic(fake_logits, real_logits)
        scalars = {f"loss/{name}": loss, f"{name}/real": real_logits.mean()}
        return loss, {**scalars, f"{name}/fake": fake_logits.mean()}

    def r1(
        self, batch: Batch, gamma: float, *, paired: bool, name: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """R1 penalty on the un-augmented real images (and masks)."""
        images = batch.images.detach().clone().requires_grad_(True)
        if not paired:
            logits = self(images)
            penalty = losses.r1_penalty(logits, images, gamma)
        else:
            both = torch.cat([batch.images, signed(batch)], dim=1).detach().requires_grad_(True)
            logits = self(both[:, :-1], both[:, -1:])
            penalty = losses.r1_penalty(logits, both, gamma)
        if self.adapts:
            self.state.ada.accumulate(logits.detach())
        return penalty, {f"r1/{name}": penalty}


class _Known(torch.autograd.Function):
    """A number whose gradients with respect to some tensors are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *both: Tensor) -> Tensor:
        """``both``: the gradients, then the tensors."""
        ctx.save_for_backward(*both[: len(both) // 2])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        known = ctx.saved_tensors
        return None, *(None for _ in known), *(grads[0] * g for g in known)


def signed(batch: Batch) -> Tensor:
    """Real masks as -1 and +1, (N, 1, R, R)."""
    return batch.defects.to(batch.images.dtype) * 2 - 1


def mean_area(batch: Batch) -> Tensor:
    """Mean share of defect pixels of a real batch."""
    return batch.defects.float().mean()

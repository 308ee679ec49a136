"""A small detector of defects, learned from pairs: a U-Net, the same for every source of pairs.

Legend: N batch, n pictures, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen.augment.pipe import AugmentPipe
from defectgen.errors import ConfigError
from defectgen.ops.convolution import conv2d

#: Steps of each training: a minute in a thread at 64 px.
STEPS = 300
BATCH, GOODS = 16, 4
#: Probability of each augmentation; learning rate and weight decay.
CHANCE, RATE, DECAY = 0.5, 2e-3, 1e-2
#: Features at full, half, quarter and eighth resolution; normalized in groups of GROUP; the logit
#: of all pixels at first: few are defects. From 0 and with ReLU, all features of defects died.
WIDTHS, GROUP, PRIOR = (8, 24, 48, 96), 8, -4.0


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images of defects and where the defects are.

    Attributes:
        images: (n, C, H, W) float32 in [0, 1], CPU, n at least 1, H = W.
        masks: (n, 1, H, W) bool, CPU.
    """

    images: Tensor
    masks: Tensor


class UNet(nn.Module):
    """Images to logits of "defect", pixel by pixel (after Ronneberger et al. 2015).

    Two convolutions with group normalization per level, halved by averages, doubled bilinearly.
    Nothing depends on the mode or on the other images of a batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(_level(a, b) for a, b in pairwise((channels, *WIDTHS)))
        self.thin = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(WIDTHS))
        self.up = nn.ModuleList(_level(2 * a, a) for a in WIDTHS[:-1])
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)
        with torch.no_grad():
            self.head.bias.fill_(PRIOR)  # type: ignore[union-attr]  # it has one

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 in [-1, 1], H and W multiples of 8, to logits (N, 1, H, W)."""
        found = [self.down[0](images)]
        for level in self.down[1:]:
            found.append(level(F.avg_pool2d(found[-1], 2)))
        x = found.pop()
        for thin, level in zip(reversed(self.thin), reversed(self.up), strict=True):
            x = F.interpolate(thin(x), scale_factor=2, mode="bilinear", align_corners=False)
            x = level(torch.cat([x, found.pop()], dim=1))
        logits: Tensor = self.head(x)
        return logits


class _Conv(nn.Conv2d):
    """Without a bias, by the package's kernels where these are faster."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Conv2d
        return conv2d(input, self.weight, padding=int(self.padding[0]))


def _level(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers.append(_Conv(width, after, 3, padding=1, bias=False))
        layers += [nn.GroupNorm(after // GROUP, after), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def train(
    sources: Sequence[Pairs],
    goods: Tensor,
    pipe: AugmentPipe,
    seed: int,
    steps: int = STEPS,
    device: torch.device | None = None,
) -> UNet:
    """Train one network as `arms.protocol` says; a function of its arguments and the thread count.

    Args:
        sources: 1 to 3; each gives the same share of the defects of every batch.
        goods: images without defect, (n, C, H, W) float32 in [0, 1], n at least 1.
        pipe: the augmentations the product allows.
        seed: of weights, draws and augmentations; the global generator is not touched.
        steps: updates of the weights.
        device: where it learns; None is the CPU. All numbers are drawn on the CPU.

    Raises:
        ConfigError: not 1 to 3 sources, or no good image.
    """
    share = (BATCH - GOODS) // max(len(sources), 1)
    if len(sources) not in (1, 2, 3) or not len(goods):
        got = f"{len(sources)} sources, {len(goods)} goods"
        raise ConfigError(f"sources: 1, 2 or 3, with some good images; got {got}; pass those")
    place = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = UNet(goods.shape[1]).to(place)
        for weight in network.parameters():
            if weight.ndim == 4:  # faster
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        draw = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    pools = [((goods, torch.zeros_like(goods[:, :1])), GOODS)]
    pools += [((pairs.images, pairs.masks.float()), share) for pairs in sources]
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        picks = [torch.randint(len(pool[0]), (k,), generator=draw) for pool, k in pools]
        images, masks = (
            torch.cat([pool[part][pick] for (pool, _), pick in zip(pools, picks, strict=True)])
            for part in (0, 1)
        )
        images, masks = images.to(place), masks.to(place)
        images, masks = pipe(images * 2 - 1, p=CHANCE, generator=draw, masks=masks * 2 - 1)
        optimizer.zero_grad()
        value = loss(network(images.clamp(-1, 1)), (masks > 0).float())
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()
    return network


def loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean BCE plus 1 - (2 sum(pm) + 1) / (sum(p) + sum(m) + 1) for (N, 1, H, W), m 0 or 1."""
    p = logits.sigmoid()
    dice = (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + 1 - dice


@torch.no_grad()
def scores(network: UNet, images: Tensor) -> Tensor:
    """Probabilities (n, 1, H, W) float64 of a defect for images (n, C, H, W) in [0, 1]."""
    network.eval()
    place = network.head.weight.device
    parts = torch.split(images, 2 * BATCH)
    logits = torch.cat([network(part.to(place) * 2 - 1).cpu() for part in parts])
    return logits.double().sigmoid()  # in single precision all above 17 would be 1, and equal

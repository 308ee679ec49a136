"""What a defect training starts from: networks, codes, and masks of about the real area."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.config import BackboneConfig, DefectConfig
from defectgen.morphology import dilated
from defectgen.networks.defect import DefectBranch
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.known import explained, thumbnail
from defectgen.networks.layers import ToChannels
from defectgen.networks.synthesis import Generator
from defectgen.rng import generator, latents, no_noise, sample_seeds
from defectgen.training.adversarial import draw, principal_codes

#: Random objects tried as the start of each background's code.
START_CANDIDATES = 256
#: A cell of a thumbnail is known from this share of its pixels on; the others become the mean of
#: their neighborhoods so many times, after which a defect of half of the picture is smooth.
CLEAR, SMOOTHED = 0.25, 200


def new_networks(
    shape: BackboneConfig, defect: DefectConfig, judge: Discriminator, seed: int
) -> tuple[DefectBranch, tuple[Discriminator, Discriminator]]:
    """Fresh branch and matching discriminator, and a copy of the backbone's discriminator."""
    branch = DefectBranch(shape, defect)
    branch.reset(generator(seed, "branch"))
    matching = new_matching(shape, defect)
    matching.reset(generator(seed, "matching"))
    return branch, (copy.deepcopy(judge), matching)


def continued(branch: DefectBranch, shape: BackboneConfig, pairs: int) -> DefectBranch:
    """A copy of a branch that was trained, to go on with so many pairs.

    What it knew of other pairs is left behind: shapes and codes are those of the pairs at hand.
    """
    if branch.config.known in (0, pairs):
        return copy.deepcopy(branch)
    fresh = DefectBranch(shape, replace(branch.config, known=pairs))
    fresh.blocks.load_state_dict(branch.blocks.state_dict())
    return fresh


def new_matching(shape: BackboneConfig, defect: DefectConfig) -> Discriminator:
    """The discriminator of image-mask pairs."""
    return Discriminator(
        shape.resolution,
        shape.channels + 1,
        channel_base=defect.match_channel_base,
        channel_max=defect.match_channel_max,
        minibatch_group=shape.minibatch_group,
        clamp=shape.clamp,
        half_resolutions=shape.half_resolutions,
    )


def initial_mask_bias(branch: DefectBranch, logits: Tensor, area: float) -> float:
    """Offset for the mask head's bias so that a share ``area`` of these logits is >= 0.

    Args:
        branch: its ToMask bias is changed in place.
        logits: (N, 1, r, r) logits the branch gives now.
        area: mean area of the real masks, in (0, 1).

    Returns:
        The amount added to the bias; 0 if the logits are not finite.
    """
    # Logits of a fresh head vary by about one; a quantile makes the start independent of that.
    level = torch.quantile(logits.detach().float().flatten(), 1 - min(max(area, 1e-4), 0.5))
    offset = -float(level)
    if not math.isfinite(offset):
        return 0.0
    with torch.no_grad():
        cast(ToChannels, branch.first.to_mask).bias.add_(offset)
    return offset


@torch.no_grad()
def set_mask_bias(network: Generator, branch: DefectBranch, area: float, seed: int) -> None:
    """Start the mask head so that masks cover about the mean area of the real ones."""
    device = network.mapping.w_avg.device
    seeds = sample_seeds(16, seed)
    dim = network.config.z_dim
    objects = network.mapping(latents(seeds, dim, "object").to(device))
    defects = branch.mapping(latents(seeds, dim, "defect").to(device))
    ws = network.broadcast(objects)
    x_in = network.synthesis.entering(branch.resolutions[0], ws, no_noise)
    logits = branch.final_logits(x_in, branch.broadcast(defects), no_noise)
    initial_mask_bias(branch, logits, area)


def defect_codes(
    backbone: Generator, images: Tensor, masks: Tensor, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Codes (n, W) and keys (n, Z) of the defects: principal components of what the masks show."""
    inside = torch.cat([images * masks, masks.to(images.dtype)], dim=1)
    return principal_codes(inside, backbone.config.w_dim, backbone.config.z_dim, source)


@torch.no_grad()
def object_codes(
    backbone: Generator, images: Tensor, masks: Tensor, source: torch.Generator
) -> Tensor:
    """Codes (n, W) of the backgrounds: of random objects the one most alike outside the mask."""
    w: Tensor = backbone.mapping(draw((START_CANDIDATES, backbone.config.z_dim), source))
    thumbnails = torch.cat(
        [
            thumbnail(backbone.synthesis(backbone.broadcast(part), no_noise))
            for part in torch.split(w, 32)
        ]
    )
    shares = thumbnail((~masks).float())
    nearest = [
        int(((one - thumbnails).abs() * share).sum(dim=(1, 2, 3)).argmin())
        for one, share in zip(thumbnail(images), shares, strict=True)
    ]
    return w[torch.tensor(nearest, device=w.device)]


@torch.no_grad()
def scenes_of(images: Tensor, masks: Tensor, renders: Tensor) -> Tensor:
    """Training images without their defects, as thumbnails (n, C, S, S).

    About a mask they are those of the renders of the backgrounds. Where these tell nothing of the
    images around, as of a product that the backbone has not learned, they tell nothing of what a
    defect hides: then the cells about a mask are smooth, and go on from those around them.

    Args:
        images: (n, C, R, R) in [-1, 1].
        masks: bool (n, 1, R, R).
        renders: (n, C, R, R), the backbone's objects most like the images outside the masks.
    """
    near = dilated(masks.to(images.dtype))
    shown = thumbnail(torch.where(near > 0, renders, images))
    seen, real = (thumbnail(near) == 0).to(images.dtype), thumbnail(images)
    if explained(real, thumbnail(renders), seen):
        return shown
    clear = 1 - thumbnail(near)  # how much of a cell no defect hides
    own = thumbnail(images * (1 - near)) / clear.clamp_min(1e-3)
    around = (own * clear).sum((2, 3), keepdim=True) / clear.sum((2, 3), keepdim=True).clamp_min(1)
    known = clear >= CLEAR
    filled = torch.where(known, own, around)
    for _ in range(SMOOTHED):
        mixed = F.avg_pool2d(F.pad(filled, (1, 1, 1, 1), mode="replicate"), 3, 1)
        filled = torch.where(known, own, mixed)
    return torch.where(known.flatten(1).any(1).view(-1, 1, 1, 1), filled, shown)

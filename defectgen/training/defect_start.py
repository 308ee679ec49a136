"""What a defect training starts from: networks, codes, and masks of about the real area."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.config import BackboneConfig, DefectConfig, TrainConfig
from defectgen.networks.defect import DefectBranch, initial_mask_bias
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.synthesis import Generator
from defectgen.rng import generator, latents, no_noise, sample_seeds
from defectgen.training.adversarial import Codes, draw, principal_codes

#: Random objects tried as the start of each background's code.
START_CANDIDATES = 256
#: Side of the thumbnails on which they are compared.
THUMBNAIL = 16


def new_networks(
    shape: BackboneConfig, defect: DefectConfig, judge: Discriminator, seed: int
) -> tuple[DefectBranch, tuple[Discriminator, Discriminator]]:
    """Fresh branch and matching discriminator, and a copy of the backbone's discriminator."""
    branch = DefectBranch(shape, defect)
    branch.reset(generator(seed, "branch"))
    matching = new_matching(shape, defect)
    matching.reset(generator(seed, "matching"))
    return branch, (copy.deepcopy(judge), matching)


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


def start_codes(
    backbone: Generator,
    images: Tensor,
    masks: Tensor,
    config: TrainConfig,
    source: torch.Generator,
) -> tuple[Codes, Codes]:
    """Codes of defects and of backgrounds; none if no term of the training asks for them."""
    if not (config.warm_kimg or config.anchor_weight or config.composite_reals):
        shape = backbone.config
        none = Codes(images.new_zeros(0, shape.w_dim), images.new_zeros(0, shape.z_dim))
        return none, copy.deepcopy(none)
    starts, keys = defect_codes(backbone, images, masks, source)
    return Codes(starts, keys), Codes(object_codes(backbone, images, masks, source), keys)


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
            _thumbnail(backbone.synthesis(backbone.broadcast(part), no_noise))
            for part in torch.split(w, 32)
        ]
    )
    shares = _thumbnail((~masks).float())
    nearest = [
        int(((one - thumbnails).abs() * share).sum(dim=(1, 2, 3)).argmin())
        for one, share in zip(_thumbnail(images), shares, strict=True)
    ]
    return w[torch.tensor(nearest, device=w.device)]


def _thumbnail(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images, THUMBNAIL)

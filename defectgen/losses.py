"""Losses as pure functions of tensors; each docstring holds its equation and its source.

D(x) are logits (N, 1); images are (N, C, H, W) in [-1, 1]; expectations are batch means.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.ordering import sorted_rows


def generator_logistic(fake_logits: Tensor) -> Tensor:
    """E[softplus(-D(G(z)))], the non-saturating loss (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def discriminator_logistic(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """E[softplus(D(G(z)))] + E[softplus(-D(x))] (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor, gamma: float) -> Tensor:
    """gamma / 2 * E[||grad_x D(x)||^2] (Mescheder et al. 2018, equation 9).

    Args:
        real_logits: (N, 1), computed from ``real``.
        real: (N, C, H, W), a leaf that requires gradients.
        gamma: weight.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return 0.5 * gamma * gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, ws: Tensor, directions: Tensor) -> Tensor:
    """sqrt(mean_l ||J_w^T y||^2) per sample, (N,), y ~ N(0, 1) / sqrt(H * W) (StyleGAN2, eq. 4).

    Args:
        images: (N, C, H, W), computed from ``ws``.
        ws: (N, L, W), requires gradients.
        directions: standard normal, shape of ``images``.
    """
    scale = 1 / math.sqrt(images.shape[2] * images.shape[3])
    total = (images * (directions * scale)).sum()
    (gradient,) = torch.autograd.grad(total, ws, create_graph=True)
    return (gradient.square().sum(dim=2).mean(dim=1) + 1e-12).sqrt()


def path_penalty(lengths: Tensor, mean: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """E[(length - a)^2] and the new a <- lerp(a, E[length], decay) (StyleGAN2, equation 4)."""
    new_mean = torch.lerp(mean, lengths.detach().mean(), decay)
    return (lengths - new_mean).square().mean(), new_mean


def mode_seeking(
    ws_a: Tensor,  # (N, L, W)
    ws_b: Tensor,  # (N, L, W)
    masks_a: Tensor,  # (N, 1, H, W)
    masks_b: Tensor,  # (N, 1, H, W)
    epsilon: float,
) -> Tensor:
    """mean|w_a - w_b| / (mean|M_a - M_b| + epsilon): different latents, different masks.

    A ratio of means over the whole batch (DFMGAN, equation 5, after MSGAN, Mao et al. 2019).
    ``epsilon`` bounds loss and gradient when all masks coincide, for instance when all are empty;
    the published form has none.
    """
    return (ws_a - ws_b).abs().mean() / ((masks_a - masks_b).abs().mean() + epsilon)


def pyramid_l1(
    images: Tensor, targets: Tensor, weights: Tensor | None = None, levels: int = 4
) -> Tensor:
    """Mean over levels of the (weighted) L1 distance after average pooling by 1, 2, 4, 8, ...

    Args:
        images: (N, C, H, W).
        targets: (N, C, H, W).
        weights: (N, 1, H, W) in [0, 1], which pixels count; None counts all. At a coarse level a
            cell is the weighted mean of its pixels and counts with its mean weight.
        levels: number of levels; stops where a side would be below 4 px.

    Source: reconstruction on an image pyramid as in GLO (Bojanowski et al. 2018, section 3.2).
    """
    difference = images - targets
    weight = torch.ones_like(difference[:, :1]) if weights is None else weights
    total = difference.new_zeros(())
    count = 0
    weighted = difference * weight
    for _ in range(levels):
        total = total + weighted.abs().sum() / (weight.sum() * images.shape[1] + 1e-6)
        count += 1
        if min(weighted.shape[2:]) < 8:
            break
        weighted, weight = F.avg_pool2d(weighted, 2), F.avg_pool2d(weight, 2)
    return total / count


def texture_distance(
    images: Tensor,
    targets: Tensor,
    filters: Tensor,
    *,
    levels: int = 3,
    window: int | None = None,
) -> Tensor:
    """Sliced Wasserstein distance of small patches, image by image: equal texture, any place.

    Each filter maps every patch to a number; the numbers of an image, or of a window of it, are
    sorted and compared with the sorted ones of its target: the 1-Wasserstein distance of the two
    distributions (Rabin et al. 2012, section 2.3, with filters as directions). Unlike L1 it does
    not ask where a grain lies, and so does not answer uncertainty with blur.

    Args:
        images: (N, C, H, W).
        targets: (N, C, H, W).
        filters: (K, C, p, p), directions in the space of patches; scaled to length 1 here.
        levels: of an average-pooling pyramid by 2; ends where a side would be below 2p.
        window: side in pixels of the full image within which places may be exchanged, a divisor
            of both sides; None for the whole image. With windows images are continued by
            reflection, so that every pixel lies in one.
    """
    filters = filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    both = torch.cat([images, targets])
    size, total, count = filters.shape[-1], images.new_zeros(()), 0
    for level in range(levels):
        if window is None:
            values = F.conv2d(both, filters).flatten(2)
        else:
            found = F.conv2d(F.pad(both, [size // 2] * 4, mode="reflect"), filters)
            side = min(max(2, window >> level), *found.shape[2:])
            values = found.unfold(2, side, side).unfold(3, side, side).flatten(4)
        first, second = sorted_rows(values).chunk(2)
        total, count = total + (first - second).abs().mean(), count + 1
        if both.shape[-1] // 2 < 2 * size:
            break
        both = F.avg_pool2d(both, 2)
    return total / count

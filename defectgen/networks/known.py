"""What a branch remembers of its training pairs: shapes of masks, and where they lay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen.morphology import dilated, eroded
from defectgen.ordering import sort_rows

#: Side of the thumbnails on which scenes are compared.
THUMBNAIL = 16
#: Planes that tell a block where the mask is.
PLANES = 2
#: Width in pixels of the ring around a mask that tells the brightness of a place.
RING = 3
#: An example becomes at most so many times as bright, or as dark.
GAIN = 2.0
#: What a defect differs by from what is there without it is drawn to be at most so many times as
#: much, or little; of a scene the mean of what lies nearer than a side through the second number is
#: there.
CONTRAST, MIDDLE = 1.5, 32
#: Where it differs by less than so much, on average over the mask (white and black differ by 2), it
#: is made stronger, but not more than so many times: nobody learns from what cannot be seen.
VISIBLE, STRONGER = 40 / 255, 2.0
#: A defect that covers more than this share of the picture is a region with a grain of its own, or
#: with an edge of the part: it is seen however faint it is; stronger its grain would be another
#: one, and it would show a bend.
REGION = 0.2
#: Share of the variance of photos that renders of the parts most like them have to explain, or the
#: backbone has not learned the product. Measured at 64 px: circuits and fabric at most 0.01 (0.3
#: on backbones of format 4), all others 0.53 to 1.0.
EXPLAINED = 0.4
#: Photos are bilevel, one bit a pixel, if black and white, up to so many levels of 255, both occur,
#: and gray less than a tenth as often as the rarer one: in the pictures, and inside the masks.
EXTREME, GRAY = 12, 0.1
#: While a branch learns, an example is shown at one of so many levels, see `coarser`.
LEVELS = 2
#: Reach of the distance plane, in cells.
REACH = 6


class KnownDefects(nn.Module):
    """The training pairs, and thumbnails of them without the defect.

    Attributes:
        masks: uint8 (n, 1, R, R), 0 or 1.
        images: uint8 (n, C, R, R), the training images as they were read: what hundreds of them
            take is kept several times while a branch learns.
        scenes: float (n, C, S, S), thumbnails of them without the defect.
        texture: whether the backbone keeps a grain, so that any place is as good as any other.
        learned: whether the backbone, to which a branch belongs for good, has learned the product;
            None as long as nobody has looked.
    """

    masks: Tensor
    images: Tensor
    scenes: Tensor

    def __init__(
        self, count: int, channels: int, resolution: int, *, texture: bool = False
    ) -> None:
        super().__init__()
        self.texture = texture
        self.learned: bool | None = None
        self.register_buffer("masks", torch.zeros(count, 1, resolution, resolution).byte())
        size = count, channels, resolution, resolution
        self.register_buffer("images", torch.zeros(size, dtype=torch.uint8))
        self.register_buffer("scenes", torch.zeros(count, channels, THUMBNAIL, THUMBNAIL))
        self._levels: tuple[float, float] | None = None
        self._counted = False

    @torch.no_grad()
    def set(self, masks: Tensor, images: Tensor, backgrounds: Tensor) -> None:
        """Remember pairs: masks (n, 1, R, R) bool, images and backgrounds (n, C, R, R) signed.

        Backgrounds may be thumbnails.
        """
        self.masks.copy_(masks)
        self.images.copy_(as_bytes(images))
        self.scenes.copy_(thumbnail(backgrounds))
        self._counted, self.learned = False, None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._counted, self.learned = False, None

    def holds(self, masks: Tensor, images: Tensor) -> bool:
        """Whether these are the pairs: to the byte, so that no device's rounding decides."""
        own = self.images.shape == images.shape and self.masks.shape == masks.shape
        same = own and torch.equal(self.images, as_bytes(images))
        return same and torch.equal(self.masks > 0, masks)

    @property
    def levels(self) -> tuple[float, float] | None:
        """Black and white of bilevel images, in [-1, 1]; None if there is gray, see GRAY."""
        if not self._counted:  # once: hundreds of large images take a while
            pairs = zip(self.images, self.masks, strict=True)
            self._levels, self._counted = levels_of(pairs), True
        return self._levels

    def shown(
        self,
        images: Tensor,
        masks: Tensor,
        scenes: Tensor | None,
        contrast: Tensor | None = None,
        regions: Tensor | None = None,
    ) -> Tensor:
        """Moved images `adapted` to these scenes; of bilevel ones no channel of a pixel is gray."""
        if self.levels is None:
            return adapted(images, masks, scenes, contrast, regions)
        black, white = images.new_tensor(self.levels)
        return torch.where(images >= (black + white) / 2, white, black)

    def pairs(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, R, R) in [-1, 1] and masks (N, 1, R, R), 0 or 1, of these pairs."""
        dtype = self.scenes.dtype
        return self.images[index].to(dtype) / 127.5 - 1, self.masks[index].to(dtype)


def levels_of(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float] | None:
    """`KnownDefects.levels` of uint8 images (C, R, R) with their masks (1, R, R)."""
    counts = torch.zeros(2, 3, dtype=torch.float64)  # all, and inside the masks; black, white, gray
    sums = torch.zeros(2, dtype=torch.float64)
    for image, mask in pairs:  # one by one, for all would take much
        black, white = image <= EXTREME, image >= 255 - EXTREME
        kinds = torch.stack([black, white, ~(black | white)])
        counts += torch.stack([some.sum((1, 2, 3)).cpu() for some in (kinds, kinds & (mask > 0))])
        sums += torch.stack([image[some].sum().cpu() for some in (black, white)])
    if not bool((counts[:, 2] < GRAY * counts[:, :2].amin(1)).all()):
        return None
    black, white = (sums / counts[0, :2] / 127.5 - 1).tolist()
    return black, white


def are_regions(masks: Tensor) -> Tensor:
    """Which masks (N, 1, S, S), 0 or 1 or shares of cells, cover more than REGION: (N,) bool."""
    return masks.mean((1, 2, 3)) > REGION


def as_bytes(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8, exact for what was read from bytes."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


def thumbnail(images: Tensor) -> Tensor:
    """(N, C, R, R) -> (N, C, S, S)."""
    return F.adaptive_avg_pool2d(images, THUMBNAIL)


def explained(photos: Tensor, renders: Tensor, seen: Tensor | None = None) -> bool:
    """Whether renders explain enough of the variance of photos, both (n, C, S, S): see EXPLAINED.

    ``seen``, (n, 1, S, S), weighs the cells; None counts all.
    """
    weight = torch.ones_like(photos[:, :1]) if seen is None else seen
    mean = (photos * weight).sum((0, 2, 3), keepdim=True) / weight.sum().clamp_min(1)
    missed, varied = (float(((photos - some).square() * weight).sum()) for some in (renders, mean))
    return missed <= (1 - EXPLAINED) * varied


def mask_planes(masks: Tensor, resolution: int) -> Tensor:
    """Planes (N, 2, r, r) in [-1, 1] of masks (N, 1, R, R) bool: coverage, and depth.

    Depth is the distance to the edge of the mask in cells, positive inside, up to `REACH`.
    """
    inside = F.adaptive_avg_pool2d(masks.float(), resolution)
    depth = torch.zeros_like(inside)
    wide, narrow = inside, inside
    for _ in range(REACH):
        wide, narrow = dilated(wide), eroded(narrow)
        depth = depth + wide + narrow
    return torch.cat([2 * inside - 1, depth / REACH - 1], dim=1)


def adapted(
    images: Tensor,
    masks: Tensor,
    scenes: Tensor | None,
    contrast: Tensor | None = None,
    regions: Tensor | None = None,
) -> Tensor:
    """Known defects as they would look here: in the exposure of the place, weaker or stronger.

    Args:
        images: (N, C, R, R) in [-1, 1], moved training images.
        masks: bool (N, 1, R, R), moved alike.
        scenes: (N, C, R, R), what is there without the defect; None leaves the exposure.
        contrast: (N,), factors of what differs from the scene, blurred a little, or, without one,
            from the mean of the surroundings, raised where that is below VISIBLE, up to STRONGER,
            but not of a region; only None leaves it.
        regions: bool (N,), which were before they moved; what covers more than REGION of the
            picture now is one anyway.

    Returns:
        (N, C, R, R); images whose mask leaves no surroundings as they are.
    """
    inside = masks.to(images.dtype)
    ring = dilated(inside, RING) - inside
    total = ring.sum((2, 3), keepdim=True)
    result, middle = images, (images * ring).sum((2, 3), keepdim=True) / total.clamp_min(1.0)
    if scenes is not None:
        gain = exposure(scenes, images, ring).clamp(1 / GAIN, GAIN)
        result = (images + 1) * gain.view(-1, 1, 1, 1) - 1
        size = 2 * (images.shape[-1] // MIDDLE) + 1
        middle = F.avg_pool2d(scenes, size, 1, size // 2, count_include_pad=False)
    if contrast is not None:
        change = ((result - middle).abs().mean(1, keepdim=True) * inside).sum((1, 2, 3))
        least = VISIBLE * inside.sum((1, 2, 3)) / change.clamp_min(1e-6)
        large = are_regions(inside)
        large = large if regions is None else large | regions
        least = least * ~large
        contrast = torch.maximum(contrast, least.clamp_max(STRONGER))
        result = (result - middle) * contrast.view(-1, 1, 1, 1) + middle
        result = result.clamp(-1.0, 1.0)
    return torch.where(total > RING, result, images)


@torch.no_grad()
def exposure(here: Tensor, there: Tensor, where: Tensor) -> Tensor:
    """How many times brighter it is here than there: (N,), median over pixels, weighted.

    Exposures differ by a factor, of which images hold a power: still a factor. Where the edge of a
    part is in a ring a little farther than there, a mean would take that for another exposure; and
    where most of a ring is black, pixels that tell little would outvote those of the part.

    Args:
        here: (N, C, R, R) in [-1, 1].
        there: likewise.
        where: (N, 1, R, R), 1 for pixels that count.
    """
    one, other = ((some + 1).mean(1).flatten(1).clamp_min(0.02) for some in (here, there))
    counted = where.flatten(1) > 0
    # Few pixels count, and sorting is what takes time: first they are put side by side.
    most = max([1, *counted.sum(1).tolist()])
    spot = (counted.cumsum(1) - 1).masked_fill(~counted, most)
    weight, factors = (
        some.new_zeros(len(some), most + 1).scatter_(1, spot, some)[:, :most]
        for some in (torch.minimum(one, other) * where.flatten(1), one / other)
    )
    factors, order = sort_rows(factors)
    share = weight.gather(1, order).cumsum(1)
    middle = (share < share[:, -1:] / 2).sum(1, keepdim=True)
    return factors.gather(1, middle.clamp_max(factors.shape[1] - 1))[:, 0]


def draw_contrast(count: int, source: torch.Generator) -> Tensor:
    """Factors (N,) from 1 / CONTRAST to CONTRAST, evenly in their logarithm."""
    even = torch.rand((count,), generator=source, device=source.device) * 2 - 1
    return torch.as_tensor(CONTRAST, device=even.device) ** even


def coarser(images: Tensor, masks: Tensor, levels: Tensor) -> Tensor:
    """What of a defect a branch is shown while it learns: less than there is.

    Args:
        images: (N, C, R, R).
        masks: bool (N, 1, R, R).
        levels: (N,) integers; the defect is averaged over cells of 2^level pixels: what is lost
            there the branch has to make up.

    Returns:
        (N, C, R, R), 0 outside the masks.
    """
    inside = masks.to(images.dtype)
    coarse = images * inside
    for level in range(1, int(levels.max()) + 1 if len(levels) else 0):
        cell = 2**level
        share = F.avg_pool2d(inside, cell)
        mean = F.avg_pool2d(images * inside, cell) / share.clamp_min(1e-3)
        # Weighted by how much of a cell the mask fills: what lies outside does not shine in.
        weight = F.interpolate(share, scale_factor=cell, mode="bilinear").clamp_min(1e-3)
        wide = F.interpolate(mean * share, scale_factor=cell, mode="bilinear") / weight
        coarse = torch.where((levels == level).view(-1, 1, 1, 1), wide * inside, coarse)
    return coarse

"""`DefectBatch`: the one record in which samples leave the library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from defectgen.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class DefectBatch:
    """Pictures with what is known about them; row i of every field belongs together.

    N samples, C channels (3 RGB or 1 gray), H and W pixels.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1].
        masks: (N, 1, H, W) bool, True on the defect; None if not asked for.
        normals: (N, C, H, W) float32 in [0, 1], the same objects without defect, or None.
        labels: the defect class of each sample, or None.
        seeds: the seed of each sample; empty if the pictures were not drawn from seeds.
        backgrounds: the name of the good photo below each sample; empty if there is none.

    Raises:
        ConfigError: a field has another shape or length than `images` asks for.
    """

    images: Tensor  # (N, C, H, W)
    masks: Tensor | None = None  # (N, 1, H, W)
    normals: Tensor | None = None  # (N, C, H, W)
    labels: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = ()
    backgrounds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that all fields speak of the same samples."""
        if self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            raise ConfigError(
                "images: must have the shape (N, 1 or 3, H, W); "
                f"got {tuple(self.images.shape)}; reshape them"
            )
        count, _, height, width = self.images.shape
        if self.masks is not None and self.masks.shape != (count, 1, height, width):
            raise ConfigError(
                f"masks: must have the shape {(count, 1, height, width)} to fit the images; "
                f"got {tuple(self.masks.shape)}; pass one mask per image"
            )
        if self.normals is not None and self.normals.shape != self.images.shape:
            raise ConfigError(
                f"normals: must have the shape {tuple(self.images.shape)} of the images; "
                f"got {tuple(self.normals.shape)}; pass one normal picture per image"
            )
        if self.labels is not None and len(self.labels) != count:
            raise ConfigError(
                f"labels: must have one entry per image, {count}; got {len(self.labels)}; "
                "pass one label per image"
            )
        for name, found in (("seeds", self.seeds), ("backgrounds", self.backgrounds)):
            if found and len(found) != count:
                raise ConfigError(
                    f"{name}: must have one entry per image, {count}; got {len(found)}; "
                    "pass one per image or none"
                )

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self.images.shape[0])

    @classmethod
    def concat(cls, batches: Sequence[DefectBatch]) -> DefectBatch:
        """Put batches one after the other.

        Args:
            batches: At least one; all with the same fields set and the same picture size.

        Raises:
            ConfigError: the list is empty, or the batches do not fit each other.
        """
        if not batches:
            raise ConfigError("batches: must hold at least one batch; got none; pass one or more")
        shapes = sorted({tuple(batch.images.shape[1:]) for batch in batches})
        if len(shapes) > 1:
            raise ConfigError(
                f"batches: must have pictures of one size (C, H, W); got {shapes}; "
                "join only batches of the same synthesizer"
            )
        masks = [batch.masks for batch in batches if batch.masks is not None]
        normals = [batch.normals for batch in batches if batch.normals is not None]
        labels = [batch.labels for batch in batches if batch.labels is not None]
        counts = {"masks": len(masks), "normals": len(normals), "labels": len(labels)}
        # An empty batch has neither of these either way, so that it fits both kinds.
        for name in ("seeds", "backgrounds"):
            having = [batch for batch in batches if getattr(batch, name)]
            counts[name] = len(having) + sum(not len(batch) for batch in batches) * bool(having)
        for name, found in counts.items():
            if found not in (0, len(batches)):
                raise ConfigError(
                    f"batches: all or none must have {name}; got {found} of "
                    f"{len(batches)}; sample all of them with the same arguments"
                )
        return cls(
            images=torch.cat([batch.images for batch in batches]),
            masks=torch.cat(masks) if masks else None,
            normals=torch.cat(normals) if normals else None,
            labels=tuple(label for part in labels for label in part) if labels else None,
            seeds=tuple(seed for batch in batches for seed in batch.seeds),
            backgrounds=tuple(name for batch in batches for name in batch.backgrounds),
        )

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, masks and normals of a batch that has all three.

        Raises:
            ConfigError: it has no masks or no normals.
        """
        if self.masks is None or self.normals is None:
            raise ConfigError(
                "batch: must have masks and normals; got one without; "
                "draw it with return_normals=True"
            )
        return self.images, self.masks, self.normals

    def numpy(self) -> dict[str, NDArray[np.uint8]]:
        """Return the pictures as 8-bit arrays, ready for any image library.

        Returns:
            `images` (N, H, W, C) uint8; if they exist, `masks` (N, H, W) uint8 with the values
            0 and 255, and `normals` (N, H, W, C) uint8.
        """
        arrays = {"images": _eight_bit(self.images)}
        if self.masks is not None:
            arrays["masks"] = self.masks[:, 0].cpu().numpy().astype(np.uint8) * np.uint8(255)
        if self.normals is not None:
            arrays["normals"] = _eight_bit(self.normals)
        return arrays

    def tile(self, columns: int | None = None) -> Image.Image:
        """Return one picture with all samples; each mask stands right below its image.

        Args:
            columns: Samples per row; by default about as many columns as rows.

        Raises:
            ConfigError: the batch is empty or `columns` is smaller than 1.
        """
        from PIL import Image

        if len(self) == 0:
            raise ConfigError("batch: must hold at least one sample; got none; sample some first")
        wide = math.ceil(math.sqrt(len(self))) if columns is None else columns
        if wide < 1:
            raise ConfigError(f"columns: must be at least 1; got {columns}; pass 1 or more")
        arrays = self.numpy()
        cells = arrays["images"]  # (N, H or 2H, W, C)
        if "masks" in arrays:
            below = np.repeat(arrays["masks"][..., None], cells.shape[3], axis=3)
            cells = np.concatenate([cells, below], axis=1)
        count, height, width, channels = cells.shape
        wide = min(wide, count)
        rows = math.ceil(count / wide)
        grid = np.zeros((rows * wide, height, width, channels), np.uint8)
        grid[:count] = cells
        flat = rearrange(grid, "(row column) h w c -> (row h) (column w) c", row=rows)
        return Image.fromarray(flat[..., 0] if channels == 1 else flat)


def _eight_bit(images: Tensor) -> NDArray[np.uint8]:
    # (N, C, H, W) float in [0, 1] -> (N, H, W, C) uint8, rounded to the nearest value.
    scaled = images.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    array: NDArray[np.uint8] = rearrange(scaled, "n c h w -> n h w c").contiguous().cpu().numpy()
    return array

"""Samples of a synthesizer: the methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from defectgen.backgrounds import GoodImages, find_backgrounds
from defectgen.batch import DefectBatch
from defectgen.checks import check_range, check_room
from defectgen.errors import ConfigError
from defectgen.estimator import given_seed
from defectgen.rng import sample_seeds
from defectgen.sampling import SAMPLE_BATCH, draw_defects, iter_defects

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer


class Sampled:
    """Gives a synthesizer its methods ``sample`` and ``iter_samples``."""

    def sample(
        self,
        n: int,
        *,
        return_masks: bool = False,
        return_normals: bool = False,
        good_images: GoodImages | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        truncation_psi: float = 1.0,
        batch_size: int | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Draw n defective parts.

        Where the backbone has not learned the product, each defect is put on that of eight good
        parts, drawn at once, on which it fits (docs/method.md).

        Args:
            n: how many.
            return_masks: also return the masks.
            return_normals: also return the same parts without defect.
            good_images: draw the defects on these photos, as for ``Backbone.fit``, instead of on
                parts that the backbone draws. Each sample takes one of them by its seed, some more
                than once; beyond the reach of its defect the photo stays as it is, at the
                backbone's resolution. Not with the preset. They are read at each call, unless they
                come from `defectgen.data.images.load_images`.
            seed: sample i depends on seed + i, and on ``good_images``, only; None draws a fresh
                one.
            generator: draw the seed from it instead.
            truncation_psi: 1 for the full variety, 0 for the mean part and mean defect; known masks
                and their places vary as before. On ``good_images`` the parts do, too.
            batch_size: samples per forward pass; memory only, results stay within 1e-4
                (1e-3 in bf16).

        Returns:
            Images float32 (n, C, R, R) in [0, 1]; with flags a tuple of images, then masks bool
            (n, 1, R, R), then normals float32 (n, C, R, R).

        Warns:
            DataWarning: ``good_images`` hold photos from which the defect was learned.

        Raises:
            NotFittedError: before ``fit``.
            ImageError: listing every unusable photo.
            ConfigError: for an argument outside its rule, or if n images do not fit into memory.
        """
        network, branch = cast("DefectSynthesizer", self)._fitted()
        shape = network.config
        check_range("n", n, low=0, integer=True)
        each = (shape.channels * (8 if return_normals else 4) + 1) * shape.resolution**2
        check_room(n, each, "take them from iter_samples, batch by batch")
        parts = list(
            self.iter_samples(
                n,
                return_normals=return_normals,
                good_images=good_images,
                seed=seed,
                generator=generator,
                truncation_psi=truncation_psi,
                batch_size=batch_size,
            )
        )
        parts = parts or [draw_defects(network, branch, (), 1.0, normals=return_normals)]
        whole = DefectBatch.concat(parts)
        result = [whole.images]
        result += [whole.masks] if return_masks and whole.masks is not None else []
        result += [whole.normals] if return_normals and whole.normals is not None else []
        return result[0] if len(result) == 1 else tuple(result)

    def iter_samples(
        self,
        n: int,
        *,
        return_normals: bool = False,
        good_images: GoodImages | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        truncation_psi: float = 1.0,
        batch_size: int | None = None,
    ) -> Iterator[DefectBatch]:
        """Yield batches of images and masks (and normals), so that a million never sit in memory.

        Arguments as in `sample`, checked at the call. Each batch holds its seeds, and the names of
        the good images below its samples.
        """
        synth = cast("DefectSynthesizer", self)
        network, branch = synth._fitted()
        check_range("n", n, low=0, integer=True)
        check_range("truncation_psi", truncation_psi, low=0.0, high=2.0)
        size = SAMPLE_BATCH if batch_size is None else batch_size
        check_range("batch_size", size, low=1, integer=True)
        first = _first_seed(seed, generator)
        backgrounds = None
        if good_images is not None:
            backgrounds = find_backgrounds(network, branch, good_images)
        return iter_defects(
            network,
            branch,
            sample_seeds(n, first),
            truncation_psi,
            normals=return_normals,
            batch_size=size,
            precision=synth.precision,
            backgrounds=backgrounds,
        )


def _first_seed(seed: int | None, generator: torch.Generator | None) -> int:
    """The seed of the first sample: given, drawn from the generator, or fresh."""
    if generator is None:
        return given_seed(seed)
    if seed is not None:
        raise ConfigError("seed, generator: at most one of them; got both; leave one out.")
    if not isinstance(generator, torch.Generator):
        raise ConfigError(
            f"generator: a torch.Generator; got {generator!r}; pass a number as seed."
        )
    return given_seed(int(torch.randint(2**31, (), generator=generator, device=generator.device)))

"""``SyntheticDefects``: samples as a map-style dataset for a ``torch.utils.data.DataLoader``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from defectgen.backgrounds import (
    Backgrounds,
    GoodImages,
    find_backgrounds,
    read_photos,
)
from defectgen.batch import DefectBatch
from defectgen.checks import check_range
from defectgen.data.images import ImageSet
from defectgen.errors import ConfigError
from defectgen.networks.defect import DefectBranch
from defectgen.rng import SEED_LIMIT
from defectgen.sampling import SAMPLE_BATCH, iter_defects
from defectgen.system import WINDOWS

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer


class SyntheticDefects(Dataset[dict[str, Any]]):
    """n samples of a fitted synthesizer, drawn when they are asked for.

    Sample i has the seed ``seed + i``, whoever asks: workers and ranks never repeat one another,
    and the same index gives the same picture in every epoch (to 1e-4, in bf16 to 1e-3: a
    ``DataLoader`` asks for a whole batch, which is rendered in one pass). For fresh pictures in
    each epoch take another ``seed``, n apart.

    Args:
        synth: a fitted `DefectSynthesizer`; read, never changed.
        n: samples.
        seed: of the first one.
        label: what every sample is called, for example the number of its class.
        truncation_psi: 1 for the full variety, 0 for the mean part and mean defect; known masks and
            their places vary as before. On ``good_images`` the parts do, too.
        good_images: draw the defects on these photos instead, as in `DefectSynthesizer.sample`.

    Each item is a dict: ``image`` float32 (C, R, R) in [0, 1], ``mask`` bool (1, R, R), ``label``,
    and with ``good_images`` ``background``, the name of the photo.

    Raises:
        NotFittedError: the synthesizer has not learned yet.
        ImageError: listing every unusable photo.
        ConfigError: a number is out of bounds, or ``synth`` is something else.
    """

    def __init__(
        self,
        synth: DefectSynthesizer,
        n: int,
        *,
        seed: int = 0,
        label: int | str = 1,
        truncation_psi: float = 1.0,
        good_images: GoodImages | None = None,
    ) -> None:
        if not hasattr(synth, "iter_samples"):
            raise ConfigError(
                f"synth: a fitted DefectSynthesizer; got an object of type {type(synth).__name__}; "
                "fit one, or read one from its folder"
            )
        check_range("n", n, low=1, integer=True)
        check_range("seed", seed, low=0, integer=True)
        synth.iter_samples(0, truncation_psi=truncation_psi)  # checks what each item will need
        self.synth, self.n, self.seed = synth, n, seed
        self.label, self.truncation_psi = label, truncation_psi
        self._photos: ImageSet | None = None
        self._found: tuple[DefectBranch, Backgrounds] | None = None
        if good_images is not None:
            self._photos = read_photos(synth.backbone_.fitted(), synth.branch_, good_images)
            self._backgrounds()

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.n

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample; negative indices count from the end.

        Raises:
            IndexError: beyond the last one.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples, rendered together: what a ``DataLoader`` calls for a batch."""
        self._check_worker()
        seeds = [self.seed + self._checked(index) for index in indices]
        batches = iter_defects(
            self.synth.backbone_.fitted(),
            self.synth.branch_,
            tuple(seed % SEED_LIMIT for seed in seeds),
            self.truncation_psi,
            normals=False,
            batch_size=SAMPLE_BATCH,
            precision=self.synth.precision,
            backgrounds=self._backgrounds(),
        )
        return [item for batch in batches for item in self._items(batch)]

    def __getstate__(self) -> dict[str, Any]:
        """What a worker is given.

        Raises:
            ConfigError: it would be given tensors of a GPU, which Windows cannot share.
        """
        if WINDOWS and self._device().type == "cuda" and get_spawning_popen() is not None:
            raise ConfigError(
                "num_workers: must be 0 for a synthesizer on a GPU, for on Windows a GPU belongs "
                "to one process; got workers; pass num_workers=0"
            )
        return self.__dict__

    def _device(self) -> torch.device:
        return self.synth.backbone_.fitted().mapping.w_avg.device

    def _items(self, batch: DefectBatch) -> Iterator[dict[str, Any]]:
        for index, image in enumerate(batch.images):
            item = {"image": image, "mask": cast(Tensor, batch.masks)[index], "label": self.label}
            if batch.backgrounds:
                item["background"] = batch.backgrounds[index]
            yield item

    def _backgrounds(self) -> Backgrounds | None:
        """The photos as the synthesizer knows them now: it may have been fitted anew."""
        if self._photos is None:
            return None
        branch = self.synth.branch_
        if self._found is None or self._found[0] is not branch:
            network = self.synth.backbone_.fitted()
            self._found = branch, find_backgrounds(network, branch, self._photos)
        return self._found[1]

    def _checked(self, index: int) -> int:
        whole = int(index)
        if not -self.n <= whole < self.n:
            raise IndexError(f"index: must be below {self.n}, the number of samples; got {whole}")
        return whole % self.n

    def _check_worker(self) -> None:
        if forked_beside_cuda(self._device()):
            raise ConfigError(
                "num_workers: must be 0, or the workers spawned, for a synthesizer on a GPU; got "
                "forked workers; pass num_workers=0 or multiprocessing_context='spawn'"
            )


def forked_beside_cuda(device: torch.device) -> bool:
    """Whether this is a worker that was forked from a process that had begun to use its GPU."""
    return device.type == "cuda" and get_worker_info() is not None and torch.cuda._is_in_bad_fork()

"""``Backbone``: learns what a good part looks like (StyleGAN2-ADA), and draws good parts."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from defectgen import backbone_fit as steps
from defectgen.augment.policy import POLICIES, AugmentPolicy
from defectgen.augment.symmetry import with_symmetries
from defectgen.backbone_files import StoredBackbone
from defectgen.checks import check_channels, check_range, check_resolution, check_room
from defectgen.config import (
    backbone_config,
    backbone_training,
    check_preset,
)
from defectgen.data.images import load_images
from defectgen.data.sources import ImageSource
from defectgen.errors import ConfigError, NotFittedError, TrainingError
from defectgen.estimator import (
    Parameters,
    check_budget,
    check_manner,
    given_seed,
    load_resumed,
    own_folder,
    resolve_device,
    resolve_seed,
    run_precision,
)
from defectgen.hub import HubSource
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.synthesis import Generator
from defectgen.rng import sample_seeds
from defectgen.sampling import draw_good
from defectgen.training.backbone_task import BackboneTask
from defectgen.weights import tensor_digest


class Backbone(StoredBackbone, Parameters, nn.Module):
    """A generator of good parts with its discriminator.

    Args:
        resolution: pixels, a power of two from 32 to 1024. None: the largest one not above the
            smallest image, at most 256 (the preset: 256).
        channels: 3 for RGB, 1 for grey.
        preset: None for this library's recipe; "dfmgan" for the published one (DFMGAN, AAAI 2023),
            which builds its networks at construction.
        kimg: budget, thousands of training images shown. None: 36 below 128 px, 500 from there
            up, for a texture, whose grain is there from the start, 1.2 and 16.7; the preset 3000.
        augment: what may be done to images in front of the discriminator: "auto" measures which
            flips, rotations and color changes occur among the good images; "none"; "safe"
            (small shifts, scale, brightness, contrast); "bgc" (everything, as published); or an
            `AugmentPolicy`. The preset turns "auto" into "bgc".
        batch_size: None: 16; the preset 32.
        precision: "fp32"; "bf16", faster on hardware that has it; "auto": "bf16" on such a CPU.
        run_dir: folder for history, contact sheets and the resume file; None writes nothing.
        seed: None draws one; it is kept in ``config_``.
        device: None takes a GPU where there is one.
        verbose: 0 silent, 1 decisions and speed as lines, and a bar on a terminal, 2 a bar
            everywhere.

    Attributes:
        generator: the moving average of the trained generator, of the best snapshot: that nearest
            to the good images by the distance of patches. None before ``fit``.
        discriminator: the trained discriminator, or None.
        config_ (dict[str, Any]): everything that was decided: networks, training, augmentation and
            data.
        history_ (list[dict[str, float]]): one record per tick of the last fit.
    """

    def __init__(
        self,
        resolution: int | None = None,
        *,
        channels: int = 3,
        preset: str | None = None,
        kimg: float | None = None,
        augment: str | AugmentPolicy = "auto",
        batch_size: int | None = None,
        precision: str = "fp32",
        run_dir: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        device: str | torch.device | None = None,
        verbose: int = 1,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        self.preset = preset
        self.kimg = kimg
        self.augment = augment
        self.batch_size, self.precision = batch_size, precision
        self.run_dir, self.seed = run_dir, seed
        self.device = device
        self.verbose = verbose
        self.generator: Generator | None = None
        self.discriminator: Discriminator | None = None
        self.source_: Path | HubSource | None = None
        self.source_digest_: str | None = None
        if preset is not None:
            check_preset(preset)
            check_channels(channels)
            if resolution is not None:
                check_resolution(resolution)
            shape = backbone_config(resolution or 256, channels, preset)
            self.generator, self.discriminator = steps.new_networks(shape, seed or 0)
            self.freeze()

    # -- learning ----------------------------------------------------------------------------------

    def fit(self, good_images: ImageSource, resume: bool = False) -> Backbone:
        """Learn the product from good images; forgets an earlier fit.

        Args:
            good_images: folder, paths, PIL images, HWC uint8 arrays, or one NCHW tensor; see
                `defectgen.data.images.load_images`.
            resume: go on with the run in ``run_dir``; begins one if there is none.

        Returns:
            self, with ``generator``, ``discriminator``, ``config_`` and ``history_`` set. An
            interrupt or a training that diverged is raised; these then hold the last good state.

        Warns:
            TrainingWarning: memory will hardly do, or samples ended far from the images.

        Raises:
            ConfigError: for a parameter outside its rule.
            ImageError: listing every unusable image.
            TrainingError: if training diverged, or memory ended; the last good state is kept.
        """
        self._check_parameters()
        with own_folder(self.run_dir) as run_dir:
            return self._fit(good_images, resume, run_dir)

    def _fit(self, good_images: ImageSource, resume: bool, run_dir: Path | None) -> Backbone:
        resumed = load_resumed(run_dir, resume, self.verbose)
        side = self.resolution or (256 if self.preset else None)
        data = load_images(good_images, resolution=side, channels=self.channels)
        side = int(data.images.shape[-1])
        policy, reason = steps.choose_policy(self.augment, self.preset, data.images, self.verbose)
        layout = steps.choose_layout(self.preset, data.images, self.verbose)
        images = data.images if self.preset else with_symmetries(data.images, policy)
        config = backbone_config(side, self.channels, self.preset, layout=layout, codes=len(images))
        device = resolve_device(self.device)
        train = backbone_training(
            config,
            preset=self.preset,
            kimg=self.kimg,
            batch_size=self.batch_size,
            seed=resolve_seed(self.seed, resumed),
            precision=run_precision(self.precision, device, resumed),
            layout=layout,
        )
        task = steps.build_task(config, train, images, policy, device)
        decided = steps.decisions(task, data, policy, reason, layout)
        try:
            steps.run_task(task, data, policy, run_dir, resumed, self.verbose)
        except (TrainingError, KeyboardInterrupt):
            self._take_over(task, decided)
            raise
        self._take_over(task, decided)
        steps.warn_if_far(task.average, data.images, train.kimg)
        return self

    def _take_over(self, task: BackboneTask, decided: dict[str, Any]) -> None:
        """Set the learned attributes from the state as it is."""
        self.generator, self.discriminator = task.average, task.judge
        self.config_: dict[str, Any] = {**decided, "trained_kimg": task.state.images / 1000}
        self.history_ = task.state.history
        self.source_ = None
        self.freeze()

    def _check_parameters(self) -> None:
        check_budget(self.preset, self.kimg, self.batch_size, self.precision)
        check_manner(self.seed, self.device, self.verbose)
        check_channels(self.channels)
        if self.resolution is not None:
            check_resolution(self.resolution)
        augment = self.augment
        if not isinstance(augment, AugmentPolicy) and augment not in ("auto", *POLICIES):
            raise ConfigError(
                f"augment: auto, {', '.join(POLICIES)} or an AugmentPolicy; "
                f"got {augment!r}; choose one of these."
            )

    # -- use ---------------------------------------------------------------------------------------

    def freeze(self) -> Backbone:
        """No gradients and evaluation mode, for good: ``train()`` does not undo it."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: a backbone learns only inside ``fit``."""
        super().train(False)
        return self

    def snapshot(self) -> Backbone:
        """The same weights in an object that a later ``fit`` of this one leaves alone."""
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        return twin

    def fitted(self) -> Generator:
        """Return the generator.

        Raises:
            NotFittedError: before ``fit`` or ``from_pretrained``.
        """
        return self.networks()[0]

    def networks(self) -> tuple[Generator, Discriminator]:
        """Return generator and discriminator.

        Raises:
            NotFittedError: before ``fit`` or ``from_pretrained``.
        """
        if self.generator is None or self.discriminator is None or not hasattr(self, "config_"):
            raise NotFittedError(
                "Backbone: fit(good_images) or from_pretrained(dir) first; got neither; "
                "call one of them."
            )
        return self.generator, self.discriminator

    def __sklearn_is_fitted__(self) -> bool:
        """Whether ``sample`` would work."""
        return self.generator is not None and hasattr(self, "config_")

    def sample(self, n: int, *, seed: int | None = None, truncation_psi: float = 1.0) -> Tensor:
        """Draw n good parts, float32 (n, C, R, R) in [0, 1], on the CPU.

        Args:
            n: how many.
            seed: image i depends on seed + i only; None draws a fresh one.
            truncation_psi: 1 for the full variety, 0 for the mean part (of a texture its mean
                shading, with the grain of any photo).

        Raises:
            NotFittedError: before ``fit``.
            ConfigError: an argument is outside its rule, or n images do not fit into memory.
        """
        network = self.fitted()
        check_range("n", n, low=0, integer=True)
        check_room(n, network.config.channels * network.config.resolution**2 * 4, "draw fewer")
        check_range("truncation_psi", truncation_psi, low=0.0, high=2.0)
        seeds = sample_seeds(n, given_seed(seed))
        return draw_good(network, seeds, truncation_psi, self.precision)

    # -- files -------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, as they are saved."""
        self.fitted()
        return {k: v.detach().cpu() for k, v in self.state_dict().items()}

    def digest(self) -> str:
        """sha256 of all tensors in float32, in the order of their names."""
        return tensor_digest(self.tensors())

"""Perceptual distances: how different two images look, as squared distances of feature maps.

Letters: N images, C channels, H and W; h and w the sides of a layer's map.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.errors import ConfigError
from defectgen.metrics.features import INSTALL, Named, load_state, package_file

#: Smaller images are enlarged until no side is shorter: the last maps would have too few cells.
SMALLEST = 64


class Perceptual(Named, Protocol):
    """A perceptual distance whose feature maps can be had, so that many pairs share them."""

    def features(self, images: Tensor) -> list[Tensor]:
        """Return one (N, C, h, w) map per layer of images (N, C, H, W), float in [0, 1].

        Maps are scaled so that `pairwise` of the maps of a and of b is the distance of a and b.
        """
        ...

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (N,) of the images a and b, both (N, C, H, W), float in [0, 1]."""
        ...


def pairwise(
    features_a: list[Tensor],  # per layer (N, C, h, w)
    features_b: list[Tensor],  # per layer (N, C, h, w)
    weights: Tensor | None = None,  # (N, 1, H, W)
) -> Tensor:  # (N,)
    """Sum over layers of the mean over places of the squared difference (LPIPS, equation 1).

    With weights, which are resized to each layer by area, the mean over places is the weighted
    one. A place of a deep layer sees far around it, so what lies near a mask still counts a little.

    Args:
        features_a: maps that `Perceptual.features` gave; N may be 1 to compare one with many.
        features_b: the same of the other images.
        weights: non-negative weight of every pixel, float or bool, or None for equal ones.

    Returns:
        Distance of the k-th image of a and the k-th of b, float32.

    Raises:
        ConfigError: the layers differ, or weights are negative or zero everywhere for some pair.
    """
    shapes = [[tuple(f.shape[1:]) for f in features] for features in (features_a, features_b)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            "features_a, features_b: must be maps of images of one size from one network; "
            f"got {shapes[0]} and {shapes[1]}; resize the images"
        )
    if weights is not None:
        weights = weights.float()
        sums = weights.sum((1, 2, 3)) if weights.ndim == 4 else weights.new_zeros(1)
        # A NaN fails both comparisons.
        if weights.ndim != 4 or not (bool((sums > 0).all()) and bool((weights >= 0).all())):
            raise ConfigError(
                "weights: must be (N, 1, H, W), not negative, and positive somewhere for every "
                f"pair; got shape {tuple(weights.shape)} and sums {sums.flatten()[:8].tolist()}; "
                "leave out pairs without a mask"
            )
    total = torch.zeros(1, device=features_a[0].device)
    for a, b in zip(features_a, features_b, strict=True):
        difference = (a - b).square().sum(1, keepdim=True)
        if weights is None:
            total = total + difference.mean((1, 2, 3))
        else:
            share = F.interpolate(weights, size=difference.shape[-2:], mode="area")
            total = total + (difference * share).sum((1, 2, 3)) / share.sum((1, 2, 3))
    return total


def st_lpips() -> Perceptual:
    """Shift-tolerant LPIPS with an AlexNet trunk (Ghildyal and Liu 2022), "stlpips_alex".

    LPIPS (Zhang et al. 2018, equation 1) with a trunk that was trained from scratch on human
    judgements. It keeps the first convolution at stride 1 and blurs before it halves, so that a
    shift by a pixel, which nobody sees, counts little. The weights come as a data file of the
    package ``stlpips-pytorch``, which is never run.

    Takes images of any size; a side below 64 px is enlarged to 64. Gray becomes RGB. Values are
    not checked here: the faithful form of IC-LPIPS needs values beyond [0, 1].

    Raises:
        ConfigError: the package is not installed, or its file is not the expected one.
    """
    path = package_file("stlpips_pytorch", "weights", "vST0.0", "alex_shift_tolerant.pth")
    if path is None:
        raise ConfigError(
            f"perceptual: needs the package stlpips-pytorch; got none installed; run {INSTALL}"
        )
    state = load_state("perceptual", path)
    _check_shapes("perceptual", state, _SHAPES, path)
    return _StLpips(state)


def lpips(trunk: str | Path, heads: str | Path | None = None) -> Perceptual:
    """LPIPS with an AlexNet trunk (Zhang et al. 2018, equation 1), "lpips_alex".

    Its trunk, trained on ImageNet, is a file that torchvision downloads; nothing is downloaded
    here. Images as for `st_lpips`.

    Args:
        trunk: file with the state dict of ``torchvision.models.alexnet``, such as
            ``alexnet-owt-7be5be79.pth``; its classifier is not used.
        heads: file with the linear heads, ``weights/v0.1/alex.pth`` of the package ``lpips``; None
            takes it from there. The package is never run.

    Raises:
        ConfigError: a file is missing or not the expected one.
    """
    found = package_file("lpips", "weights", "v0.1", "alex.pth") if heads is None else Path(heads)
    if found is None:
        raise ConfigError(
            "heads: must be a file where the package lpips is not installed; got None; "
            "run pip install --no-deps lpips"
        )
    weights = load_state("trunk", Path(trunk))
    weights = {key: value for key, value in weights.items() if not key.startswith("classifier.")}
    shapes = [shape for _, _, shape in _CONVOLUTIONS]
    wanted: dict[str, tuple[int, ...]] = {}
    for name, shape in zip(_TRUNK, shapes, strict=True):
        wanted |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    _check_shapes("trunk", weights, wanted, Path(trunk))
    linear = load_state("heads", found)
    _check_shapes("heads", linear, {k: v for k, v in _SHAPES.items() if k[:3] == "lin"}, found)
    if any(bool((value < 0).any()) for value in linear.values()):
        raise ConfigError(
            f"heads: must not be negative; got such weights in {str(found)!r}; use version 0.1"
        )
    scaling = {"shift": (-0.030, -0.088, -0.188), "scale": (0.458, 0.448, 0.450)}
    fixed = {f"scaling_layer.{k}": torch.tensor(v).view(1, 3, 1, 1) for k, v in scaling.items()}
    return _Lpips({**weights, **linear, **fixed})


def _check_shapes(
    name: str, state: dict[str, Tensor], wanted: dict[str, tuple[int, ...]], path: Path
) -> None:
    got = {key: tuple(value.shape) for key, value in state.items()}
    if got != wanted:
        wrong = sorted(key for key in got.keys() | wanted if got.get(key) != wanted.get(key))
        raise ConfigError(
            f"{name}: must hold exactly the tensors of its network; got "
            f"{', '.join(wrong[:4])} wrong in {str(path)!r}; use the version in constraints.txt"
        )


# -- the network; its tensors have the names of the weight file -----------------------------------

#: Per layer: name of the convolution, and padding and shape of its kernels.
_CONVOLUTIONS = (
    ("net.slice1.0", 2, (64, 3, 11, 11)),
    ("net.slice2.5", 2, (192, 64, 5, 5)),
    ("net.slice3.9", 1, (384, 192, 3, 3)),
    ("net.slice4.11", 1, (256, 384, 3, 3)),
    ("net.slice5.13", 1, (256, 256, 3, 3)),
)
#: The same convolutions in the file of torchvision.
_TRUNK = tuple(f"features.{k}" for k in (0, 3, 6, 8, 10))
#: The three blurs that halve: after the first convolution, before the second and the third.
_BLURS = {"net.slice1.1.filt": 64, "net.slice2.4.filt": 64, "net.slice3.8.filt": 192}
_SHAPES: dict[str, tuple[int, ...]] = {
    "scaling_layer.shift": (1, 3, 1, 1),
    "scaling_layer.scale": (1, 3, 1, 1),
    **{f"{name}.weight": shape for name, _, shape in _CONVOLUTIONS},
    **{f"{name}.bias": shape[:1] for name, _, shape in _CONVOLUTIONS},
    **{name: (width, 1, 3, 3) for name, width in _BLURS.items()},
    **{f"lin{k}.model.1.weight": (1, c[2][0], 1, 1) for k, c in enumerate(_CONVOLUTIONS)},
}


class _Alex:
    """LPIPS on the feature maps of an AlexNet."""

    name: str

    def __init__(self, state: dict[str, Tensor]) -> None:
        self._state = state

    def _layer(self, state: dict[str, Tensor], index: int, x: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        self._state = {key: value.to(images.device) for key, value in self._state.items()}
        state, maps = self._state, []
        x = _enlarged(images.float().expand(-1, 3, -1, -1)) * 2 - 1
        x = (x - state["scaling_layer.shift"]) / state["scaling_layer.scale"]
        for index in range(len(_CONVOLUTIONS)):
            x = F.relu(self._layer(state, index, x))
            # A head is a mean with weights that are not negative: its root goes into the maps.
            root = state[f"lin{index}.model.1.weight"].sqrt()
            maps.append(x / (x.norm(dim=1, keepdim=True) + 1e-10) * root)
        return maps

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return pairwise(self.features(a), self.features(b))


class _StLpips(_Alex):
    name = "stlpips_alex"

    def _layer(self, state: dict[str, Tensor], index: int, x: Tensor) -> Tensor:
        name, padding, _ = _CONVOLUTIONS[index]
        if index in (1, 2):
            blur = "net.slice2.4.filt" if index == 1 else "net.slice3.8.filt"
            x = _halved(F.max_pool2d(x, 3, stride=1), state[blur])
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)
        return _halved(x, state["net.slice1.1.filt"]) if index == 0 else x


class _Lpips(_Alex):
    name = "lpips_alex"

    def _layer(self, state: dict[str, Tensor], index: int, x: Tensor) -> Tensor:
        name, padding = _TRUNK[index], _CONVOLUTIONS[index][1]
        if index in (1, 2):
            x = F.max_pool2d(x, 3, stride=2)
        stride = 4 if index == 0 else 1
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)


def _halved(x: Tensor, kernel: Tensor) -> Tensor:
    """Blur each channel, then keep every second pixel (Zhang 2019, section 3.2)."""
    return F.conv2d(F.pad(x, (2,) * 4, mode="reflect"), kernel, stride=2, groups=x.shape[1])


def _enlarged(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    factor = SMALLEST / min(height, width)
    if factor <= 1:
        return images
    size = round(height * factor), round(width * factor)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)

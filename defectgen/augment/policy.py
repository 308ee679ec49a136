"""Which augmentations may happen: named presets, or what the good images themselves allow.

Legend: N images, C channels, R side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.augment.likeness import Likeness
from defectgen.checks import check_fields
from defectgen.errors import ConfigError, ImageError

#: An operation is granted if the images it changed lie at most this much farther from the originals
#: than these from each other. Flips may differ a little more: they are drawn half as often, and
#: uneven light, which hardly anyone sees in a mirrored image, is what separates many real sets.
GRANT_RATIO = 1.10
GRANT_FLIP_RATIO = 1.20
#: Hue and saturation besides need images of many hues; 0 one hue, 1 all hues alike.
GRANT_HUE_SPREAD = 0.5
MIN_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class AugmentPolicy:
    """The operations of ADA (Karras et al. 2020) that may be used, in the order of execution.

    Augmentations hide small data sets from the discriminator, but one that changes what "good"
    means (a rotated print, another color) is learned by the generator when p is high. So each is a
    decision about the product, see `measure_policy`.

    Attributes:
        flip_x: mirror left and right, on a fair coin when active.
        flip_y: mirror top and bottom, on a fair coin when active; not part of the published set.
        rot90: turn by a multiple of 90 degrees, drawn uniformly from all four.
        translate_int: shift by whole pixels, each axis uniform within 1/8 of the side.
        scale: enlarge or shrink by 2^N(0, 0.2^2).
        rotate: turn by any angle, before and after the anisotropic scaling.
        anisotropic: stretch one direction by 2^N(0, 0.2^2) and shrink the other by the same.
        translate_frac: shift by fractions of pixels, each axis N(0, (side / 8)^2).
        brightness: add N(0, 0.2^2) to images in [-1, 1].
        contrast: multiply by 2^N(0, 0.5^2).
        luma_flip: swap dark and bright at equal hue, on a fair coin when active.
        hue: turn the hue by any angle; no effect on grey images.
        saturation: multiply the chroma by 2^N(0, 1); no effect on grey images.
    """

    flip_x: bool
    flip_y: bool
    rot90: bool
    translate_int: bool
    scale: bool
    rotate: bool
    anisotropic: bool
    translate_frac: bool
    brightness: bool
    contrast: bool
    luma_flip: bool
    hue: bool
    saturation: bool

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool):
                raise ConfigError(
                    f"{field.name}: must be True or False; got {value!r}; pass one of the two"
                )

    def to_dict(self) -> dict[str, bool]:
        """Return the switches by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> AugmentPolicy:
        """Rebuild a policy from `to_dict`.

        Raises:
            ConfigError: a switch is missing, unknown or not a bool.
        """
        known = [field.name for field in fields(cls)]
        check_fields(cls.__name__, known, values)
        return cls(**{name: values[name] for name in known})  # type: ignore[arg-type]  # checked above


_NONE = dict.fromkeys((field.name for field in fields(AugmentPolicy)), False)
_SAFE = _NONE | dict.fromkeys(
    ("translate_int", "scale", "translate_frac", "brightness", "contrast"), True
)

_ALWAYS_TEXT = "translation, scale, brightness and contrast"

#: "none"; "bgc", the published set; "safe", which keeps the orientation and the colors of a part.
POLICIES = MappingProxyType(
    {
        "none": AugmentPolicy(**_NONE),
        "bgc": AugmentPolicy(**dict.fromkeys(_NONE, True) | {"flip_y": False}),
        "safe": AugmentPolicy(**_SAFE),
    }
)


def measure_policy(
    images: Tensor,  # (N, C, R, R)
) -> tuple[AugmentPolicy, str]:
    """Decide from the good images which changes of orientation and color they tolerate.

    The rule: the set is transformed, and each transformed image is compared with the other
    originals (`Likeness.ratio`); an operation is granted where the distances grow by at most 10 %,
    a flip where they grow by at most 20 %.
    Strict on purpose: a wrongly granted operation spoils every image generated, a wrongly refused
    one costs some protection from overfitting. Translation, scale, brightness and contrast, all
    of them small and centered on "no change", are always on.

    Args:
        images: (N, C, R, R) uint8 good images, R at least 32; 20 or more for a sound answer. Fewer
            than 8 are not measured.

    Returns:
        The policy and one sentence that says what was chosen and why.

    Raises:
        ImageError: the images are not such a batch.
    """
    shape = tuple(images.shape)
    square = len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3] and shape[2] >= 32
    if images.dtype != torch.uint8 or not square or shape[0] == 0:
        raise ImageError(
            "images: must be a uint8 batch (N, C, R, R) with C 1 or 3 and R at least 32; got "
            f"{images.dtype} of shape {shape}; pass ImageSet.images"
        )
    if shape[0] < MIN_IMAGES:
        reason = f"{shape[0]} images are too few to measure invariances (at least {MIN_IMAGES})"
        return POLICIES["safe"], f"{reason}, so only {_ALWAYS_TEXT} are used."
    with torch.no_grad():
        likeness = Likeness(images.cpu())
        ratios = _ratios(likeness)
        spread = likeness.hue_spread()
    granted = {
        name
        for name, ratio in ratios.items()
        if ratio <= (GRANT_FLIP_RATIO if name in ("flip_x", "flip_y") else GRANT_RATIO)
    }
    if spread < GRANT_HUE_SPREAD:
        granted -= {"hue", "saturation"}
    if "rot90" not in granted:  # any angle includes the right ones
        granted -= {"rotate"}
    policy = AugmentPolicy(**_SAFE | dict.fromkeys(granted, True))
    return policy, _explain(likeness, ratios, granted, spread)


def _ratios(likeness: Likeness) -> dict[str, float]:
    """The worst ratio of each operation over the values it can take."""
    turns = [partial(torch.rot90, k=k, dims=(2, 3)) for k in (1, 2, 3)]
    # Off the multiples of 15 and 45 degrees, which straight edges of technical parts prefer.
    angles = [partial(_turn, degrees=d) for d in (22, 68, 112, 203, 247, 338)]
    stretches = [partial(_stretch, factor=s) for s in (1.15, 1 / 1.15)]
    result = {
        "flip_x": likeness.ratio(partial(torch.flip, dims=(3,))),
        "flip_y": likeness.ratio(partial(torch.flip, dims=(2,))),
        "rot90": max(likeness.ratio(turn) for turn in turns),
        "rotate": max(likeness.ratio(turn, disc=True) for turn in angles),
        "anisotropic": max(likeness.ratio(stretch) for stretch in stretches),
        "luma_flip": likeness.ratio(partial(_recolor, luma=-1.0), tones=True),
    }
    if likeness.images.shape[1] == 3:
        hues = [partial(_recolor, degrees=d) for d in (60, 180, 300)]
        chromas = [partial(_recolor, chroma=s) for s in (0.5, 2.0)]
        result["hue"] = max(likeness.ratio(hue) for hue in hues)
        result["saturation"] = max(likeness.ratio(chroma) for chroma in chromas)
    return result


def _turn(images: Tensor, degrees: float) -> Tensor:
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    return _resample(images, [[cos, -sin, 0.0], [sin, cos, 0.0]])


def _stretch(images: Tensor, factor: float) -> Tensor:
    return _resample(images, [[factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]])


def _resample(images: Tensor, matrix: list[list[float]]) -> Tensor:
    # The images are blurred already: plain bilinear sampling is good enough here.
    theta = torch.tensor(matrix).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _recolor(
    images: Tensor, degrees: float = 0.0, chroma: float = 1.0, luma: float = 1.0
) -> Tensor:
    """Turn the hue, scale the chroma and mirror the luma of images in [0, 1]."""
    angle = math.radians(degrees)
    mean = images.mean(dim=1, keepdim=True)
    rest = images - mean
    turned = (rest.roll(-1, 1) - rest.roll(1, 1)) / math.sqrt(3)  # chroma turned by 90 degrees
    mirrored = (mean - 0.5) * luma + 0.5
    return mirrored + chroma * (math.cos(angle) * rest + math.sin(angle) * turned)


def _explain(
    likeness: Likeness, ratios: Mapping[str, float], granted: set[str], spread: float
) -> str:
    def listed(names: list[str]) -> str:
        shown = (f"{ratios[n]:.2f}" if ratios[n] < 100 else "over 100" for n in names)
        return ", ".join(map(" ".join, zip(names, shown, strict=True))) or "none"

    yes = [name for name in ratios if name in granted]
    no = [name for name in ratios if name not in granted]
    color = f", hue spread {spread:.2f}" if "hue" in ratios else ""
    return (
        f"Measured on {len(likeness.images)} good images (distance ratio after / before, limit "
        f"{GRANT_RATIO:.2f}, flips {GRANT_FLIP_RATIO:.2f}{color}): granted {listed(yes)}; refused "
        f"{listed(no)}; {_ALWAYS_TEXT} are always used."
    )

"""Everything that is saved beside weights: frozen dataclasses, presets, strict dictionaries.

Constructors of the public objects take what a user decides; the functions here turn that, and the
data, into complete configurations. There is no default outside this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from defectgen.errors import ConfigError
from defectgen.records import Record

#: The published preset: widths, losses, gate and augmentation of DFMGAN (AAAI 2023).
PRESETS = ("dfmgan",)
#: The grain of at most so many photos of a texture, mirrored ones too, is kept, and at most so many
#: numbers.
GRAIN_FIELDS, GRAIN_NUMBERS = 512, 2**24


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(Record):
    """Shape of generator and discriminator (DFMGAN fact sheet, section 1)."""

    resolution: int  # pixels, a power of two
    channels: int = 3  # 3: RGB, 1: grey
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2  # 0: linear
    mapping_codes: int = 0  # z blends so many learned codes instead
    channel_base: int = 16384  # width at r px: min(channel_base / r, channel_max)
    channel_max: int = 512
    minibatch_group: int = 4  # samples over which minibatch standard deviation is taken
    clamp: float | None = None  # limit of activations in convolution layers (half precision)
    half_resolutions: int = 0  # this many top resolutions run in fp16 on a GPU
    base_components: int = 0  # principal components of the goods below the blocks; 0: none
    grain_fields: int = 0  # photos of a texture whose grain lies below the blocks; 0: none

    def width(self, resolution: int) -> int:
        """Feature channels at this resolution."""
        return min(self.channel_base // resolution, self.channel_max)


@dataclass(frozen=True, kw_only=True)
class DefectConfig(Record):
    """Shape of the defect branch and of the matching discriminator (section 2)."""

    first_resolution: int  # lowest manipulated resolution
    match_channel_base: int = 4096
    match_channel_max: int = 128
    gate: str = "straight_through"  # gradient of the gate: straight_through or hard
    contained: bool = True  # gates open only inside the final mask
    mask_steepness: float = 2.0  # the losses see tanh(mask_steepness * logits)
    known: int = 0  # masks come from so many training pairs; 0: from the ToMask head
    moves: str = ""  # operations of the augmentation policy that may move these masks
    places: int = 16  # tried for each mask
    bend: float = 0.015  # spread of the shifts that bend a defect, share of the side


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Record):
    """Every number of a training run; resolved once, saved with the result."""

    kimg: float  # thousands of training images shown, all phases together
    warm_kimg: float  # the first part: reconstruction warm start; 0 switches it off
    batch_size: int
    seed: int
    precision: str = "fp32"  # of features and convolutions: fp32 or bf16
    learning_rate: float = 0.0025  # Adam, both networks, before the lazy correction
    beta2: float = 0.99  # beta1 is 0
    style_mixing: float = 0.9  # probability
    r1_gamma: float
    r1_interval: int = 16  # iterations; 0 switches the term off
    path_weight: float = 2.0
    path_interval: int = 4  # iterations; 0 switches the term off
    path_decay: float = 0.01
    ema_kimg: float  # half-life of the moving average
    ema_rampup: float | None = 0.05  # half-life at most this share of what was seen; None: no cap
    ada_target: float = 0.6
    ada_kimg: float = 500.0  # p climbs from 0 to 1 in this many kimg
    ada_interval: int = 4  # iterations between adjustments
    ada_cap: float | None = 0.8  # largest p; None: no cap, as published
    warm_learning_rate: float = 0.005
    anchor_weight: float = 0.0  # reconstruction term kept in the adversarial part
    anchor_cell: int = 1  # side in pixels of the cells whose means the reconstruction compares
    texture_weight: float = 0.0  # of the texture distance in reconstruction terms
    match_weight: float = 1.0
    match_augment: bool = False  # paired augmentation in front of D_match
    mode_seeking_weight: float = 0.1
    mode_seeking_epsilon: float = 1e-3
    mask_bias: bool = True  # start the mask logits at the mean real area


def check_preset(preset: str | None) -> None:
    """Raise ConfigError unless ``preset`` is None or a known name."""
    if preset is not None and preset not in PRESETS:
        raise ConfigError(
            f"preset: None or one of {', '.join(PRESETS)}; got {preset!r}; choose one of these."
        )


def backbone_config(
    resolution: int, channels: int, preset: str | None, layout: str = "aligned", codes: int = 0
) -> BackboneConfig:
    """Network shape for a resolution: the published widths, or narrower ones.

    Below 128 px an eighth of the published ``channel_base`` and a quarter of its ``channel_max``,
    so that a CPU can train it; from 128 px up base 8192, at most 256 channels, chosen for cost.
    ``layout``: "aligned" (one pose), "free" (many) or "texture". ``codes``: number of images.
    """
    check_preset(preset)
    if preset == "dfmgan":
        base = 16384 if resolution < 512 else 32768
        return BackboneConfig(
            resolution=resolution,
            channels=channels,
            channel_base=base,
            clamp=256.0,
            half_resolutions=4,
        )
    base, widest, w_dim = (2048, 128, 128) if resolution < 128 else (8192, 256, 256)
    return BackboneConfig(
        resolution=resolution,
        channels=channels,
        # Codes of a part in a fixed pose are normally distributed about their mean; so is the
        # shading of a texture. Poses lie apart: between two of them codes are blended.
        z_dim=8 if layout == "free" else 32,
        mapping_layers=0,
        mapping_codes=codes if layout == "free" else 0,
        w_dim=w_dim,
        channel_base=base,
        channel_max=widest,
        # The shading of a texture lies on a plane, its grain does not: that is moved around.
        base_components=16 if layout == "texture" else 32,
        grain_fields=_grain_fields(resolution, channels, codes) if layout == "texture" else 0,
    )


def _grain_fields(resolution: int, channels: int, images: int) -> int:
    """So many photos of a texture keep their grain: of large ones few, for each has many places."""
    return min(images, GRAIN_FIELDS, max(1, GRAIN_NUMBERS // (channels * resolution**2)))


def defect_config(
    backbone: BackboneConfig, preset: str | None, first_resolution: int | None = None
) -> DefectConfig:
    """Branch shape for a backbone; by default it begins at a quarter of the image's resolution."""
    check_preset(preset)
    first = max(8, backbone.resolution // 4) if first_resolution is None else first_resolution
    if preset == "dfmgan":
        return DefectConfig(
            first_resolution=first, gate="hard", contained=False, mask_steepness=10.0
        )
    base, widest = (1024, 64) if backbone.resolution < 128 else (4096, 128)
    return DefectConfig(first_resolution=first, match_channel_base=base, match_channel_max=widest)


def _published(
    config: BackboneConfig, kimg: float, batch_size: int | None, seed: int
) -> TrainConfig:
    """Numbers of the preset that both trainings share."""
    rate = 0.0025 if config.resolution < 1024 else 0.002
    numbers = _numbers(config, kimg, 32 if batch_size is None else batch_size, seed)
    return replace(numbers, learning_rate=rate, ada_cap=None)


def _recipe(config: BackboneConfig, kimg: float, batch_size: int | None, seed: int) -> TrainConfig:
    """Numbers of the default that both trainings share."""
    numbers = _numbers(config, kimg, 16 if batch_size is None else batch_size, seed)
    # The generator comes from the reconstruction and is refined, not built: at half of the
    # published rate the first forty steps undo what it has learned (docs/lab-notes.md).
    return replace(
        numbers, learning_rate=0.0005, ada_kimg=100.0, ema_kimg=min(numbers.ema_kimg, 0.05 * kimg)
    )


def _numbers(config: BackboneConfig, kimg: float, batch: int, seed: int) -> TrainConfig:
    """Published numbers that follow from resolution and batch size."""
    return TrainConfig(
        kimg=kimg,
        warm_kimg=0.0,
        batch_size=batch,
        seed=seed,
        r1_gamma=0.0002 * config.resolution**2 / batch,
        ema_kimg=batch * 10 / 32,
    )


def backbone_training(
    config: BackboneConfig,
    *,
    preset: str | None,
    kimg: float | None,
    batch_size: int | None,
    seed: int,
    precision: str = "fp32",
    layout: str = "aligned",
) -> TrainConfig:
    """Resolve every number of backbone training from the data and what the user decided.

    Args:
        config: network shape.
        preset: None or "dfmgan".
        kimg: None takes 3000 in the preset, else 36 below 128 px and 500 from there up (published
            runs overfit a few hundred goods beyond a few hundred kimg); a thirtieth for a texture.
        batch_size: None takes 32 in the preset, else 16. The published rule for two GPUs is 32;
            here no number depends on how many GPUs there are.
        seed: of the run.
        precision: "fp32" or "bf16".
        layout: of the images, as in `backbone_config`. Of a texture nothing is reconstructed:
            its grain has no places to be learned, its shading is in the base, and what else
            blocks would paint lies in the grain already.
    """
    if preset == "dfmgan":
        numbers = _published(config, 3000.0 if kimg is None else kimg, batch_size, seed)
        return replace(numbers, precision=precision)
    default = 36.0 if config.resolution < 128 else 500.0
    if layout == "texture":
        default = round(default / 30, 3)
    total = default if kimg is None else kimg
    recipe = _recipe(config, total, batch_size, seed)
    # A backbone begins as a mean image with its components; at a quarter of this rate the
    # discriminator sees no difference for most of the budget (docs/lab-notes.md).
    recipe = replace(recipe, learning_rate=0.002, precision=precision)
    if layout == "texture":
        return recipe
    return replace(recipe, warm_kimg=round(total * 2 / 3, 3), anchor_weight=10.0)


def defect_training(
    config: BackboneConfig,
    *,
    preset: str | None,
    kimg: float | None,
    batch_size: int | None,
    seed: int,
    warm: bool,
    precision: str = "fp32",
) -> TrainConfig:
    """Resolve every number of defect training.

    Args:
        config: network shape of the backbone.
        preset: None or "dfmgan".
        kimg: None takes 400 in the preset, else 8 below 128 px and 200 from there up.
        batch_size: None takes 32 in the preset, else 16.
        seed: of the run.
        warm: begin with the reconstruction phase (not when an earlier fit is continued).
        precision: "fp32" or "bf16".
    """
    if preset == "dfmgan":
        numbers = _published(config, 400.0 if kimg is None else kimg, batch_size, seed)
        return replace(numbers, ema_rampup=None, ada_kimg=100.0, precision=precision)
    default = 8.0 if config.resolution < 128 else 200.0
    total = default if kimg is None else kimg
    return replace(
        _recipe(config, total, batch_size, seed),
        warm_kimg=round(0.8 * total, 3) if warm else 0.0,
        path_interval=0,
        # As large as it takes to hold the colors against two discriminators that know ten images
        # by heart (docs/lab-notes.md).
        anchor_weight=50.0,
        match_augment=True,
        texture_weight=1.0,
        precision=precision,
    )

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from defectgen.config import (
    BackboneConfig,
    DefectConfig,
    TrainConfig,
    backbone_config,
    backbone_training,
    check_preset,
    defect_config,
    defect_training,
)
from defectgen.errors import ConfigError

RESOLUTIONS = [32, 64, 128, 256, 512, 1024]


def every_record():
    backbone = backbone_config(64, 1, None)
    return [
        backbone,
        defect_config(backbone, None),
        backbone_training(backbone, preset=None, kimg=3, batch_size=None, seed=1),
        defect_training(backbone, preset="dfmgan", kimg=None, batch_size=4, seed=1, warm=True),
    ]


RECORDS = pytest.mark.parametrize("record", every_record(), ids=lambda r: type(r).__name__)


# -- records ---


@RECORDS
def test_json_and_back(record):
    again = type(record).from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record
    assert hash(again) == hash(record)


@RECORDS
def test_records_cannot_be_changed_or_filled_by_position(record):
    name = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, 1)
    with pytest.raises(TypeError, match="positional"):
        type(record)(32)


@RECORDS
def test_a_missing_and_an_unknown_field_are_named(record):
    values = record.to_dict()
    name = next(reversed(values))
    del values[name]
    values["extra"] = 1
    message = (
        rf"^{type(record).__name__}: exactly its .* got missing \['{name}'\], unknown \['extra'\]"
    )
    with pytest.raises(ConfigError, match=message):
        type(record).from_dict(values)
    # Not even a field with a default may be left out: a file says everything.
    del values["extra"]
    with pytest.raises(ConfigError, match=r"unknown none; use what"):
        type(record).from_dict(values)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (BackboneConfig, "resolution", 64.0),
        (BackboneConfig, "resolution", True),
        (BackboneConfig, "channels", None),
        (BackboneConfig, "clamp", "256"),
        (DefectConfig, "contained", 1),
        (DefectConfig, "gate", None),
        (TrainConfig, "kimg", "3"),
        (TrainConfig, "kimg", None),
        (TrainConfig, "kimg", False),
        (TrainConfig, "ema_rampup", [0.05]),
    ],
)
def test_a_wrong_type_is_named(kind, name, value):
    record = next(r for r in every_record() if isinstance(r, kind))
    with pytest.raises(ConfigError, match=rf"^{kind.__name__}\.{name}: of type .*; got "):
        kind.from_dict(record.to_dict() | {name: value})


def test_whole_numbers_are_floats_and_none_is_allowed_where_it_says_so():
    record = every_record()[2]
    again = TrainConfig.from_dict(record.to_dict() | {"kimg": 3, "ada_cap": None})
    assert (again.kimg, again.ada_cap) == (3, None)


# -- the published preset (numbers from the fact sheet, sections 1.1, 1.5, 1.6, 2) ---


@pytest.mark.parametrize("preset", [None, "dfmgan"])
def test_known_presets(preset):
    check_preset(preset)


@pytest.mark.parametrize("preset", ["DFMGAN", "", "stylegan"])
def test_unknown_presets_are_named(preset):
    backbone = backbone_config(64, 3, None)
    with pytest.raises(ConfigError, match=f"^preset: None or one of dfmgan; got '{preset}'"):
        check_preset(preset)
    for build in (lambda: backbone_config(64, 3, preset), lambda: defect_config(backbone, preset)):
        with pytest.raises(ConfigError, match="^preset: "):
            build()


@pytest.mark.parametrize(
    ("resolution", "widths"),
    [
        (256, [512, 512, 512, 512, 256, 128, 64]),
        (64, [512, 512, 512, 512, 256]),
        (1024, [512, 512, 512, 512, 512, 256, 128, 64, 32]),
    ],
)
def test_published_widths(resolution, widths):
    config = backbone_config(resolution, 3, "dfmgan")
    assert [config.width(4 << k) for k in range(len(widths))] == widths
    assert 4 << (len(widths) - 1) == resolution
    assert (config.z_dim, config.w_dim, config.mapping_layers) == (512, 512, 2)
    assert (config.clamp, config.minibatch_group, config.half_resolutions) == (256.0, 4, 4)


def test_published_branch():
    config = defect_config(backbone_config(256, 3, "dfmgan"), "dfmgan")
    assert config == DefectConfig(
        first_resolution=64,
        match_channel_base=4096,
        match_channel_max=128,
        gate="hard",
        contained=False,
        mask_steepness=10.0,
    )


def test_published_backbone_training():
    config = backbone_training(
        backbone_config(256, 3, "dfmgan"),
        preset="dfmgan",
        kimg=None,
        batch_size=None,
        seed=7,
    )
    assert (config.kimg, config.warm_kimg, config.batch_size, config.seed) == (3000, 0, 32, 7)
    assert config.r1_gamma == pytest.approx(0.4096)
    assert (config.ema_kimg, config.ema_rampup) == (10, 0.05)
    assert (config.ada_kimg, config.ada_target, config.ada_interval) == (500, 0.6, 4)
    assert config.ada_cap is None
    assert (config.learning_rate, config.beta2, config.style_mixing) == (0.0025, 0.99, 0.9)
    assert (config.r1_interval, config.path_interval) == (16, 4)
    assert (config.path_weight, config.path_decay) == (2.0, 0.01)
    assert config.anchor_weight == 0


@pytest.mark.parametrize(
    ("batch", "gamma", "ema"), [(16, 0.8192, 5), (32, 0.4096, 10), (64, 0.2048, 20)]
)
def test_published_rules_follow_the_batch_size(batch, gamma, ema):
    backbone = backbone_config(256, 3, "dfmgan")
    both = [
        backbone_training(backbone, preset="dfmgan", kimg=1, batch_size=batch, seed=0),
        defect_training(backbone, preset="dfmgan", kimg=1, batch_size=batch, seed=0, warm=True),
    ]
    for config in both:
        assert config.r1_gamma == pytest.approx(gamma)
        assert (config.ema_kimg, config.batch_size, config.kimg) == (ema, batch, 1)


def test_published_defect_training():
    config = defect_training(
        backbone_config(256, 3, "dfmgan"),
        preset="dfmgan",
        kimg=None,
        batch_size=None,
        seed=0,
        warm=True,
    )
    assert (config.kimg, config.warm_kimg, config.batch_size) == (400, 0, 32)
    assert (config.ada_kimg, config.ada_cap, config.ema_rampup) == (100, None, None)
    assert (config.match_weight, config.mode_seeking_weight) == (1.0, 0.1)
    assert (config.match_augment, config.anchor_weight) == (False, 0)
    assert (config.path_interval, config.path_weight) == (4, 2.0)


# -- our own defaults ---


@pytest.mark.parametrize("preset", [None, "dfmgan"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_supported_shape_is_complete(resolution, channels, preset):
    backbone = backbone_config(resolution, channels, preset)
    assert (backbone.resolution, backbone.channels) == (resolution, channels)
    assert backbone.width(resolution) >= 8
    first = defect_config(backbone, preset).first_resolution
    assert first == max(8, resolution // 4)
    given = {"preset": preset, "kimg": None, "batch_size": None, "seed": 0}
    for config in (
        backbone_training(backbone, **given),
        defect_training(backbone, warm=True, **given),
    ):
        numbers = [v for v in dataclasses.astuple(config) if isinstance(v, float)]
        assert all(math.isfinite(v) and v >= 0 for v in numbers)
        assert 0 <= config.warm_kimg < config.kimg
        assert config.ema_kimg > 0
        assert config.r1_gamma > 0


def test_what_the_user_decides_is_kept():
    backbone = backbone_config(64, 3, None)
    given = {"preset": None, "kimg": 2.5, "batch_size": 6, "seed": 11}
    for config in (
        backbone_training(backbone, **given),
        defect_training(backbone, warm=False, **given),
    ):
        assert (config.kimg, config.batch_size, config.seed) == (2.5, 6, 11)


def test_a_continued_fit_does_not_begin_with_reconstruction():
    given = {"preset": None, "kimg": 8.0, "batch_size": None, "seed": 0}
    backbone = backbone_config(64, 3, None)
    assert defect_training(backbone, warm=False, **given).warm_kimg == 0
    assert 0 < defect_training(backbone, warm=True, **given).warm_kimg < 8


def test_our_gate_lets_the_image_train_the_mask_and_labels_all_it_changes():
    config = defect_config(backbone_config(64, 3, None), None)
    assert (config.gate, config.contained) == ("straight_through", True)

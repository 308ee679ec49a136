"""Presets, and what the measurement says about drawn and real sets."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from defectgen.augment import POLICIES, AugmentPolicy, measure_policy
from defectgen.errors import ConfigError, ImageError

GEOMETRY = {"flip_x", "flip_y", "rot90", "rotate", "anisotropic"}
COLOR = {"luma_flip", "hue", "saturation"}


def granted(policy):
    """What a policy allows beyond "safe"."""
    safe = POLICIES["safe"].to_dict()
    return {name for name, on in policy.to_dict().items() if on and not safe[name]}


# -- presets ---------------------------------------------------------------------------------------


def test_the_presets_are_what_their_names_say():
    assert not any(POLICIES["none"].to_dict().values())
    off = [name for name, on in POLICIES["bgc"].to_dict().items() if not on]
    assert off == ["flip_y"]
    on = {name for name, value in POLICIES["safe"].to_dict().items() if value}
    assert on == {"translate_int", "translate_frac", "scale", "brightness", "contrast"}


def test_a_policy_survives_its_dict():
    policy = POLICIES["safe"]
    assert AugmentPolicy.from_dict(policy.to_dict()) == policy
    with pytest.raises(FrozenInstanceError):
        policy.hue = True
    with pytest.raises(TypeError):
        POLICIES["mine"] = policy


def test_a_wrong_dict_is_refused():
    values = POLICIES["safe"].to_dict()
    with pytest.raises(ConfigError, match=r"missing none, unknown \['zoom'\]"):
        AugmentPolicy.from_dict(values | {"zoom": True})
    with pytest.raises(ConfigError, match=r"missing \['hue'\], unknown none"):
        AugmentPolicy.from_dict({k: v for k, v in values.items() if k != "hue"})
    with pytest.raises(ConfigError, match="hue: must be True or False; got 1"):
        AugmentPolicy.from_dict(values | {"hue": 1})


# -- drawn sets ------------------------------------------------------------------------------------


def picture(planes):
    return (torch.stack(planes).clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture
def lit_disks(source):
    """24 gray disks at almost the same place, bright on the right."""
    draw, axis = source(), torch.arange(32) - 15.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    planes = []
    for _ in range(24):
        dx, dy, dr = torch.randn(3, generator=draw).tolist()
        radius = 9 + 0.5 * dr
        disk = torch.hypot(x - dx, y - dy) < radius
        planes.append(0.2 + disk * (0.5 + 0.25 * (x - dx) / radius))
    return picture(planes)[:, None]


@pytest.fixture
def texture(source):
    """texture(stretch=1): 40 patches of smoothed noise with a vertical grain of this ratio."""

    def build(stretch=1):
        noise = torch.randn(40, 1, 40, 40 * stretch, generator=source())
        for _ in range(2):
            noise = F.avg_pool2d(noise, 3, stride=1, padding=1)
        wide = F.interpolate(noise, (40 * stretch, 40 * stretch), mode="bilinear")
        return ((wide[..., 4:36, 4:36] * 1.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8)

    return build


@pytest.fixture
def letters(source):
    """letters(wander): 24 dark letters F on a light ground, up to `wander` pixels off center."""

    def build(wander):
        draw, planes = source(), []
        for _ in range(24):
            noise = torch.randn(32, 32, generator=draw)
            dx, dy = (torch.rand(2, generator=draw) * (2 * wander + 1) - wander).floor().int()
            plane = torch.full((32, 32), 0.8)
            plane[6 + dy : 26 + dy, 10 + dx : 13 + dx] = 0.1
            plane[6 + dy : 9 + dy, 10 + dx : 22 + dx] = 0.1
            plane[14 + dy : 17 + dy, 10 + dx : 19 + dx] = 0.1
            planes.append(plane + 0.03 * noise)
        return picture(planes)[:, None]

    return build


def test_a_disk_lit_from_one_side_may_only_be_mirrored_along_the_light(lit_disks):
    policy, reason = measure_policy(lit_disks)
    assert granted(policy) == {"flip_y"}
    assert "granted flip_y" in reason
    assert "refused flip_x" in reason


def test_an_even_texture_may_be_flipped_and_turned(texture):
    policy, _ = measure_policy(texture())
    assert granted(policy) >= {"flip_x", "flip_y", "rot90", "rotate"}


def test_a_texture_with_a_grain_may_not_be_turned(texture):
    policy, _ = measure_policy(texture(stretch=3))
    assert granted(policy) & {"flip_x", "flip_y", "rot90", "rotate"} == {"flip_x", "flip_y"}


@pytest.mark.parametrize("wander", [1, 5])
def test_a_letter_may_not_be_changed_at_all(letters, wander):
    policy, reason = measure_policy(letters(wander))
    assert policy == POLICIES["safe"]
    assert "granted none" in reason


@pytest.fixture
def painted(lit_disks, source):
    """painted(hues, strengths): the disks with a chroma of this angle and strength each."""

    def build(hues, strengths):
        gray = lit_disks.float() / 255
        angle = torch.as_tensor(hues).view(-1, 1) + torch.tensor([0.0, 2.094, 4.189])
        chroma = torch.as_tensor(strengths).view(-1, 1) * angle.cos()
        return ((gray + chroma[:, :, None, None]).clamp(0, 1) * 255).to(torch.uint8)

    return build


def test_parts_of_all_colors_may_change_hue_and_saturation(painted, source):
    hues = torch.linspace(0, 6.283, 25)[:-1]
    strengths = 0.15 * 2 ** torch.randn(24, generator=source())
    policy, _ = measure_policy(painted(hues, strengths.clamp(0.03, 0.3)))
    assert {"hue"} <= granted(policy) & COLOR <= {"hue", "saturation"}


def test_parts_of_all_hues_but_one_saturation_keep_it(painted):
    policy, _ = measure_policy(painted(torch.linspace(0, 6.283, 25)[:-1], [0.15] * 24))
    assert granted(policy) & COLOR == {"hue"}


@pytest.mark.parametrize("strength", [0.0, 0.15])
def test_parts_of_one_color_keep_it(painted, strength):
    policy, reason = measure_policy(painted([1.0] * 24, [strength] * 24))
    assert not granted(policy) & COLOR
    assert "hue spread 0.0" in reason


def test_mirrored_copies_of_a_lopsided_set_open_the_mirror(lit_disks):
    both = torch.cat([lit_disks, lit_disks.flip(3)])
    assert granted(measure_policy(both)[0]) & GEOMETRY == {"flip_x", "flip_y"}


def test_near_copies_do_not_hide_an_invariance(texture):
    groups = texture().repeat_interleave(2, dim=0)
    assert granted(measure_policy(groups)[0]) >= {"flip_x", "flip_y", "rot90"}


def test_exact_copies_of_one_image_are_no_evidence(letters):
    policy, _ = measure_policy(letters(1)[:1].repeat(20, 1, 1, 1))
    assert policy == POLICIES["safe"]


def test_large_sets_are_thinned_and_the_answer_repeats(texture):
    images = texture().repeat(5, 1, 1, 1)
    assert measure_policy(images) == measure_policy(images)
    assert "Measured on 96 good images" in measure_policy(images)[1]


def test_few_images_are_not_measured(texture):
    policy, reason = measure_policy(texture()[:7])
    assert policy == POLICIES["safe"]
    assert "7 images are too few" in reason


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(20, 3, 64, 64),
        torch.zeros(20, 3, 64, 32, dtype=torch.uint8),
        torch.zeros(20, 2, 64, 64, dtype=torch.uint8),
        torch.zeros(20, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(0, 3, 64, 64, dtype=torch.uint8),
    ],
)
def test_anything_but_a_batch_of_good_images_is_refused(images):
    with pytest.raises(ImageError, match="images: must be a uint8 batch"):
        measure_policy(images)


# -- real sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hazelnut_toy", {"flip_y"}),  # shadows fall to the right
        ("mvtec_bottle", set()),  # reflections of the lamps stay in place
        ("magnetic_tile", {"flip_x"}),  # a vertical grain, brighter at the bottom
        ("aitex_fabric02", {"flip_x", "flip_y"}),  # a weave
        ("deeppcb_20085", {"flip_x", "flip_y", "rot90", "anisotropic"}),  # straight conductors
    ],
)
def test_real_sets(data_dir, name, expected):
    files = sorted((data_dir / name / "train" / "good").iterdir())
    pixels = [np.asarray(Image.open(f).resize((128, 128), Image.Resampling.BOX)) for f in files]
    images = torch.from_numpy(np.stack(pixels))
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    policy, reason = measure_policy(images)
    assert granted(policy) == expected, reason

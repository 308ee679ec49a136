"""The grain of a texture: photos less their shading, at any place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from defectgen.config import GRAIN_FIELDS, GRAIN_NUMBERS, backbone_config
from defectgen.networks import base as bases
from defectgen.networks.base import BaseImage
from defectgen.networks.grain import (
    STEPS,
    Grain,
    enlarged,
    plain_color,
    shading,
    smooth_part,
)
from defectgen.rng import ConstantNoise, SampleNoise, no_noise

SIDE = 32


def streaks(n, *, seed=0, channels=1, side=SIDE, strength=0.2):
    """Vertical streaks: white noise, averaged over seven pixels of a column."""
    source = torch.Generator().manual_seed(seed)
    white = torch.randn(n, channels, side + 6, side, generator=source)
    return strength * F.avg_pool2d(white, (7, 1), 1) * 7**0.5


def made(images, *, count=None, plain=None):
    grain = Grain(images.shape[1], images.shape[-1], count or len(images)).requires_grad_(False)
    grain.set(images, plain)
    return grain


def drawn(grain, seeds):
    return grain(torch.zeros(len(seeds), 3), SampleNoise(seeds))


def places_of(sample, fields):
    """(photo, down, across) of the fields that a sample is, moved."""
    return [
        (k, y, x)
        for k, field in enumerate(fields)
        for y in range(sample.shape[-1])
        for x in range(sample.shape[-1])
        if torch.equal(sample, field.roll((y, x), (1, 2)))
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_is_the_grain_of_one_photo_moved_in_all_colors_alike(channels):
    grain = made(streaks(5, channels=channels, side=8))
    fields = grain.fields / STEPS
    for sample in drawn(grain, range(12)):
        assert len(places_of(sample, fields)) == 1


def test_every_photo_and_every_place_is_drawn_as_often():
    """Of 4000 samples each of 5 photos has 800 +- 25, each of 8 rows or columns 500 +- 21."""
    grain = Grain(1, 8, 5).requires_grad_(False)
    for k in range(5):  # a single pixel tells photo and place
        grain.fields[k, 0, 0, 0] = (k + 1) * STEPS // 2
    found = drawn(grain, range(4000))
    photo = (found.flatten(1).amax(1) * 2 - 1).long()
    place = found.flatten(1).argmax(1)
    for told, count in ((photo, 5), (place // 8, 8), (place % 8, 8)):
        seen = torch.bincount(told, minlength=count)
        assert len(seen) == count
        assert int((seen - 4000 // count).abs().max()) < 110
    pairs = torch.bincount(photo * 64 + place, minlength=320)  # nor do they hang together
    assert int(pairs.max()) < 40
    assert int((pairs == 0).sum()) < 5


def test_a_photo_is_its_shading_its_grain_and_what_borders_differ_by():
    photos = streaks(4, channels=3) + torch.linspace(-0.4, 0.4, SIDE)
    for photo in photos:
        field = made(photo[None]).fields[0] / STEPS
        left = photo - enlarged(shading(photo[None]), SIDE)[0]
        torch.testing.assert_close(field + smooth_part(left), left, rtol=0, atol=0.51 / STEPS)


def test_the_smooth_part_is_harmonic_but_for_the_jumps_at_the_borders():
    """Its neighbors less itself are, at a border, what the opposite one differs by, inside 0."""
    field = streaks(1, channels=2, side=12)[0].double()
    part = smooth_part(field)
    sums = sum(part.roll(step, axis) for axis in (1, 2) for step in (1, -1)) - 4 * part
    wanted = torch.zeros_like(field)
    for k in range(12):
        for low, high in (((0, k), (11, k)), ((k, 0), (k, 11))):
            low, high = (slice(None), *low), (slice(None), *high)
            jump = field[high] - field[low]
            wanted[low] += jump
            wanted[high] -= jump
    torch.testing.assert_close(sums, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(part.mean((1, 2)), torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_no_edge_shows_where_opposite_borders_meet():
    """Grain on a slope: without the smooth part the borders would differ by all of it."""
    slope = torch.linspace(-0.5, 0.5, SIDE).expand(20, 1, SIDE, SIDE)
    fields = made(slope + streaks(20, strength=0.02)).fields / STEPS
    steps = torch.cat([fields, fields[..., :1]], 3).diff(dim=3).abs().mean((0, 1, 2))
    assert float(steps[-1]) < 1.5 * float(steps[8:24].mean())
    raw = slope - enlarged(shading(slope), SIDE)
    assert float((raw[..., 0] - raw[..., -1]).abs().mean()) > 8 * float(steps[-1])


def test_what_stands_alone_is_kept():
    """A white dot and a white line on black keep their contrast: the steps reach far enough."""
    photos = torch.full((2, 1, SIDE, SIDE), -1.0)
    photos[0, 0, 5, 9] = 1.0
    photos[1, 0, :, 20] = 1.0
    for k, found in enumerate(made(photos).fields / STEPS):
        contrast = photos[k].amax() - photos[k].mean()
        assert float(found.amax() - found.mean()) == pytest.approx(float(contrast), rel=0.15)


def test_a_sample_is_the_same_in_any_batch():
    grain = made(streaks(50, channels=3))
    whole = drawn(grain, range(7))
    for k in range(7):
        assert torch.equal(drawn(grain, [k])[0], whole[k])
    assert drawn(grain, []).shape == (0, 3, SIDE, SIDE)
    assert len({tuple(sample.flatten().tolist()) for sample in whole}) == 7


def test_numbers_at_the_ends_choose_the_first_and_the_last():
    grain = made(streaks(3, side=8))
    for far, (k, shift) in {-40.0: (0, 0), 40.0: (2, 7)}.items():
        sample = grain(torch.zeros(1, 3), lambda *_, far=far: torch.full((1, 1, 2, 2), far))[0]
        assert places_of(sample, grain.fields / STEPS) == [(k, shift, shift)]


def test_without_noise_there_is_no_grain():
    grain = made(streaks(50))
    w = torch.zeros(2, 3)
    assert grain(w, no_noise) is None
    constant = grain(w, ConstantNoise())
    assert torch.equal(constant[0], constant[1])


def test_before_photos_are_seen_it_draws_nothing():
    grain = Grain(1, SIDE, 4).requires_grad_(False)
    assert float(drawn(grain, [0, 1]).abs().max()) == 0


def test_photos_without_grain_have_none():
    flat = torch.linspace(-0.5, 0.5, 40).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)
    assert float(drawn(made(flat), range(4)).abs().max()) < 1e-3


def test_of_many_photos_as_many_as_there_is_room_for_are_kept():
    """Also where mirrored copies follow in blocks, none twice; and the same ones every time."""
    photos = streaks(60, side=8)
    copies = torch.cat([photos * (1 + k / 8) for k in range(8)])
    kept = made(copies, count=16).fields
    every = torch.cat([made(one[None]).fields for one in copies])
    same = (kept[:, None] == every).flatten(2).all(2)
    assert same.sum(1).tolist() == 16 * [1]
    found = same.int().argmax(1)
    assert len(set(found.tolist())) == 16
    assert len(set((found % 60).tolist())) > 11  # 14 of 60 expected; 2 of every 30th
    assert torch.equal(made(copies, count=16).fields, kept)


@pytest.mark.parametrize(
    ("side", "channels", "images", "count"),
    [
        (64, 1, 30, 30),
        (64, 3, 5000, GRAIN_FIELDS),
        (256, 3, 5000, GRAIN_NUMBERS // (3 * 256**2)),
        (4096, 3, 9, 1),
    ],
)
def test_large_photos_keep_the_grain_of_few(side, channels, images, count):
    shape = backbone_config(side, channels, None, "texture", images)
    assert shape.grain_fields == count
    assert backbone_config(side, channels, None, "aligned", images).grain_fields == 0


@pytest.mark.parametrize("side", [16, 64, 256])
def test_shading_keeps_what_is_wide_and_leaves_grain(side):
    wave = torch.cos(3.1416 * (torch.arange(side) + 0.5) / side).expand(1, 1, side, side)
    shade = enlarged(shading(wave), side)
    assert float((shade * wave).sum() / wave.square().sum()) == pytest.approx(0.735, abs=0.06)
    checks = (torch.arange(side) % 2 * 2.0 - 1).expand(1, 1, side, side)
    assert float(shading(checks).abs().max()) < 0.06


@pytest.mark.parametrize("side", [32, 128])
def test_a_base_without_noise_is_the_shading_alone(side):
    shade = torch.linspace(-0.5, 0.5, side).expand(40, 1, side, side)
    photos = shade * torch.linspace(-1, 1, 40).view(-1, 1, 1, 1) + streaks(40, side=side)
    shape = backbone_config(side, 1, None, "texture", 40)
    base = BaseImage(shape).requires_grad_(False)
    codes = torch.zeros(40, base.coefficients.weight.shape[1])
    codes[:, 0] = torch.linspace(-1, 1, 40)
    base.set(photos, codes)
    plain, wanted = base(codes), enlarged(shading(photos), side)
    assert float((plain - wanted).square().mean().sqrt()) < 0.04
    grain = drawn(base.grain, range(40))
    torch.testing.assert_close(base(codes, SampleNoise(range(40))), plain + grain)
    assert float(grain.std()) == pytest.approx(float((photos - wanted).std()), rel=0.1)


def circuits(n):
    """Black lines and squares on white."""
    source = torch.Generator().manual_seed(0)
    found = torch.ones(n, 1, SIDE, SIDE)
    for k, (x, y) in enumerate(torch.randint(0, 24, (n, 2), generator=source).tolist()):
        found[k, :, y : y + 8, x : x + 8] = -1.0
        found[k, :, :, (x + 12) % SIDE] = -1.0
    return found


def test_what_is_black_and_white_stays_so_whatever_the_code():
    photos = circuits(30)
    assert float(plain_color(photos)) == pytest.approx(float(photos.mean()))
    base = BaseImage(backbone_config(SIDE, 1, None, "texture", 30)).requires_grad_(False)
    source = torch.Generator().manual_seed(1)
    codes = torch.randn(30, base.coefficients.weight.shape[1], generator=source)
    base.set(photos, codes)
    found = base(3 * codes, SampleNoise(range(30)))
    torch.testing.assert_close(found.abs(), torch.ones_like(found), rtol=0, atol=1e-3)
    assert 0.05 < float((found < 0).float().mean()) < 0.4


def test_colors_of_what_is_black_and_white_are_kept_apart():
    """Print of which one channel is all white: yellow of two, say."""
    photos = circuits(20).repeat(1, 3, 1, 1)
    photos[:, 1] = 1.0
    shape = backbone_config(SIDE, 3, None, "texture", 20)
    base = BaseImage(shape).requires_grad_(False)
    base.set(photos, torch.zeros(20, base.coefficients.weight.shape[1]))
    assert float(base.mean[1].min()) == pytest.approx(1.0)
    assert float(base.mean[0].max()) < 0.9
    assert not base.coefficients.weight.any()
    assert not base.components.any()


def test_photos_with_gray_have_no_plain_color():
    assert plain_color(circuits(30) * 0.5) is None
    assert plain_color(streaks(30)) is None
    soft = F.avg_pool2d(F.pad(circuits(30), 4 * [1], mode="replicate"), 3, 1)
    assert plain_color(soft) is None


def test_grain_has_the_type_of_the_codes():
    grain = made(streaks(3))
    found = grain(torch.zeros(2, 3).double(), SampleNoise([0, 1]))
    assert found.dtype == torch.float64
    assert grain.double().fields.dtype == torch.int16


def test_a_base_of_many_photos_keeps_grain_of_all_of_them(monkeypatch):
    monkeypatch.setattr(bases, "BASE_IMAGES", 10)
    photos = streaks(40)
    base = BaseImage(backbone_config(SIDE, 1, None, "texture", 40)).requires_grad_(False)
    base.set(photos, torch.randn(40, base.coefficients.weight.shape[1]))
    assert len(set(base.grain.fields[:, 0, 3, 5].tolist())) > 35
    assert torch.equal(base.grain.fields, made(photos).fields)

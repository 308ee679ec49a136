"""The grain of a texture: fields of the photos' spectrum, in their colors, drawn from noise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from defectgen.config import backbone_config
from defectgen.networks import grain as grains
from defectgen.networks.base import BaseImage
from defectgen.networks.grain import (
    FLOOR,
    Grain,
    color_axes,
    features,
    shading,
    sharpened,
    spectra,
    without_grain,
)
from defectgen.rng import ConstantNoise, SampleNoise, no_noise
from defectgen.training.adversarial import Codes, principal_codes

SIDE = 32


def streaks(n, *, seed=0, channels=1, side=SIDE, strength=0.2):
    """Vertical streaks: white noise, averaged over seven pixels of a column."""
    source = torch.Generator().manual_seed(seed)
    white = torch.randn(n, channels, side + 6, side, generator=source)
    return strength * F.avg_pool2d(white, (7, 1), 1) * 7**0.5


def lag(images, down, across):
    """Correlation of pixels so far apart, without the shading; no spectrum is computed."""
    grain = images - shading(images)
    shifted = grain[..., down:, across:]
    there = grain[..., : SIDE - down, : SIDE - across]
    return float((shifted * there).mean() / grain.square().mean())


def made(images, components=4):
    """A grain of these images, whose codes are the strength of each and nothing else."""
    grain = Grain(images.shape[1], images.shape[-1], 3, components).requires_grad_(False)
    strength = (images - shading(images)).std(dim=(1, 2, 3)).add(1e-6).log()
    codes = torch.zeros(len(images), 3)
    codes[:, 0] = (strength - strength.mean()) / strength.std().clamp_min(1e-3)
    grain.set(images, codes)
    return grain, codes


def test_drawn_grain_has_the_correlations_and_the_strength_of_the_photos():
    photos = streaks(200)
    grain, _ = made(photos)
    drawn = grain(torch.zeros(200, 3), SampleNoise(range(200)))
    assert drawn.shape == photos.shape
    for down, across in ((1, 0), (3, 0), (5, 0), (0, 1), (0, 3), (2, 2)):
        assert lag(drawn, down, across) == pytest.approx(lag(photos, down, across), abs=0.05)
    left = photos - shading(photos)
    assert float(drawn.std()) == pytest.approx(float(left.std()), rel=0.1)


def test_a_code_tells_how_strong_the_grain_is():
    factors = torch.linspace(-1, 1, 80).mul(0.8).exp().view(-1, 1, 1, 1)
    photos = factors * streaks(80)
    grain, codes = made(photos)
    drawn = grain(codes, SampleNoise(range(80)))
    wanted = (photos - shading(photos)).std(dim=(1, 2, 3)).log()
    found = drawn.std(dim=(1, 2, 3)).log()
    assert float(torch.corrcoef(torch.stack([wanted, found]))[0, 1]) > 0.95
    assert float((found - wanted).mean().abs()) < 0.1


def test_colors_are_drawn_together():
    mixing = torch.tensor([[1.0, 0.9, 0.2], [0.0, 0.3, 0.1], [0.0, 0.0, 0.5]])
    photos = torch.einsum("nchw,cd->ndhw", streaks(100, channels=3), mixing)
    grain, _ = made(photos)
    drawn = grain(torch.zeros(100, 3), SampleNoise(range(100)))
    of = [(x - shading(x)).transpose(0, 1).flatten(1).cov() for x in (photos, drawn)]
    torch.testing.assert_close(of[1], of[0], rtol=0.15, atol=3e-4)


def test_axes_of_colors_are_orthogonal_and_their_signs_fixed():
    photos = torch.einsum("nchw,cd->ndhw", streaks(20, channels=3), torch.rand(3, 3) + torch.eye(3))
    axes = color_axes(photos)
    torch.testing.assert_close(axes.t() @ axes, torch.eye(3), rtol=0, atol=1e-5)
    assert (axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)) > 0).all()
    torch.testing.assert_close(color_axes(-photos), axes, rtol=0, atol=1e-5)


def test_a_sample_is_the_same_in_any_batch():
    grain, _ = made(streaks(50, channels=3))
    w = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    whole = grain(w, SampleNoise(range(7)))
    for k in range(7):
        torch.testing.assert_close(
            grain(w[k : k + 1], SampleNoise([k]))[0], whole[k], rtol=1e-5, atol=1e-5
        )
    assert grain(w[:0], SampleNoise([])).shape == (0, 3, SIDE, SIDE)


def test_without_noise_there_is_no_grain():
    grain, _ = made(streaks(50))
    w = torch.zeros(2, 3)
    assert grain(w, no_noise) is None
    source = SampleNoise([3, 4])
    assert grain(w, without_grain(source)) is None
    assert torch.equal(without_grain(source)("b8.conv0", 2, 8), source("b8.conv0", 2, 8))
    constant = grain(w, ConstantNoise())
    assert torch.equal(constant[0], constant[1])


def test_before_photos_are_seen_it_draws_nothing():
    drawn = Grain(1, SIDE, 3, 4).requires_grad_(False)(torch.zeros(2, 3), SampleNoise([0, 1]))
    assert float(drawn.abs().max()) < 1e-9


def test_photos_without_grain_have_none():
    flat = torch.linspace(-0.5, 0.5, 40).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)
    grain, _ = made(flat + 0 * streaks(40))
    drawn = grain(torch.zeros(4, 3), SampleNoise(range(4)))
    assert torch.isfinite(drawn).all()
    assert float(drawn.std()) < 2 * FLOOR  # FLOOR itself, and what the mean of logarithms adds


def test_white_noise_has_amplitude_one():
    source = torch.Generator().manual_seed(0)
    found = spectra(torch.randn(400, 1, SIDE, SIDE, generator=source), torch.eye(1))
    power = (2 * found).exp().mean(dim=0)[0, 8:24, 8:16]  # shading takes the low frequencies
    torch.testing.assert_close(power, torch.ones_like(power), rtol=0.3, atol=0)
    assert float(power.mean()) == pytest.approx(1, rel=0.03)


def test_lines_of_a_weave_go_on_through_a_sample():
    """A wave of one frequency and a random phase: as strong at every place of every sample."""
    phase = 6.2832 * torch.rand(60, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    photos = 0.3 * torch.sin(0.19635 * (5 * x + 3 * y) + phase) + streaks(60, strength=0.02)
    grain, _ = made(photos)
    drawn = grain(torch.zeros(60, 3), SampleNoise(range(60)))
    strength = F.avg_pool2d(drawn.square(), 8).sqrt().flatten()
    assert float(strength.mean()) == pytest.approx(0.3 / 2**0.5, rel=0.1)
    assert float(strength.std() / strength.mean()) < 0.25  # 0.27 of amplitudes that are drawn, too


def test_sharpening_undoes_the_window_and_keeps_the_power():
    power = torch.full((1, SIDE, SIDE // 2 + 1), 1e-4, dtype=torch.float64)
    power[0, 3, 5] = 1.0
    blurred = torch.zeros_like(power)
    for down, a in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
        for across, b in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
            blurred += a * b * power.roll((down, across), (1, 2))
    found = sharpened(blurred)
    assert float(blurred[0, 3, 5]) < 0.45
    assert float(found[0, 3, 5]) > 0.9
    assert float(found.sum()) == pytest.approx(float(blurred.sum()), rel=0.02)
    assert (found > 0).all()


@pytest.mark.parametrize("side", [16, 64, 256])
def test_shading_keeps_slopes_and_leaves_grain(side):
    ramp = torch.linspace(-1, 1, side).expand(1, 1, side, side)
    inner = slice(3 * side // 8, -3 * side // 8)
    torch.testing.assert_close(shading(ramp)[..., inner], ramp[..., inner], rtol=0, atol=0.05)
    checks = (torch.arange(side) % 2 * 2.0 - 1).expand(1, 1, side, side)
    assert float(shading(checks).abs().max()) < 0.06


def test_codes_of_textures_tell_brightness_and_strength():
    dark, strong = streaks(60), streaks(60, seed=1)
    dark[:30] -= 0.5
    strong[:30] *= 3
    halves = (torch.arange(60) < 30).float()
    for some in (dark, strong):
        source = torch.Generator().manual_seed(0)
        _, keys = principal_codes(features(some), 8, 8, source, linear=True)
        told = [abs(float(torch.corrcoef(torch.stack([key, halves]))[0, 1])) for key in keys.t()]
        assert max(told[:2]) > 0.9


def test_gradients_reach_the_code():
    grain, _ = made(streaks(50) * torch.linspace(0.5, 2, 50).view(-1, 1, 1, 1))
    w = torch.zeros(2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(grain(w, SampleNoise([0, 1])).square().sum(), w)
    assert (slope[:, 0] > 0).all()


@pytest.mark.parametrize("count", [6, 40])
@pytest.mark.parametrize("varies", [False, True])
def test_grain_is_as_strong_as_that_of_the_photos_however_few(count, varies):
    factors = torch.linspace(0.4, 1.6, count) if varies else torch.ones(count)
    photos = streaks(count) * factors.view(-1, 1, 1, 1)
    source = torch.Generator().manual_seed(0)
    starts, keys = principal_codes(features(photos), 32, 16, source, linear=True)
    codes = Codes(starts, keys, linear=True)
    codes.project()
    grain = Grain(1, SIDE, 32, 16).requires_grad_(False)
    grain.set(photos, codes.table.detach())
    w = codes.blend(torch.randn(300, 16, generator=source)).detach()
    wanted = (photos - shading(photos)).std(dim=(1, 2, 3))
    found = grain(w, SampleNoise(range(300))).std(dim=(1, 2, 3))
    assert float(found.mean()) == pytest.approx(float(wanted.mean()), rel=0.1)
    assert float(found.std()) < 1.3 * float(wanted.std()) + 0.01  # chance alone gave 0.04


def test_of_many_large_photos_some_tell_the_spectra(monkeypatch):
    photos = streaks(80)
    monkeypatch.setattr(grains, "NUMBERS", 40 * SIDE * (SIDE // 2 + 1))
    grain, _ = made(photos)
    drawn = grain(torch.zeros(80, 3), SampleNoise(range(80)))
    assert float(drawn.std()) == pytest.approx(float((photos - shading(photos)).std()), rel=0.1)


@pytest.mark.parametrize("side", [32, 128])
def test_a_base_without_noise_is_the_shading_alone(side):
    shade = torch.linspace(-0.5, 0.5, side).expand(40, 1, side, side)
    photos = shade * torch.linspace(-1, 1, 40).view(-1, 1, 1, 1) + streaks(40, side=side)
    base = BaseImage(backbone_config(side, 1, None, layout="texture")).requires_grad_(False)
    codes = torch.zeros(40, base.coefficients.weight.shape[1])
    codes[:, 0] = torch.linspace(-1, 1, 40)
    base.set(photos, codes)
    plain = base(codes)
    assert float((plain - shading(photos)).square().mean().sqrt()) < 0.06
    grain = (photos - shading(photos)).std()
    assert float((plain - shading(plain)).std()) < 0.3 * float(grain)
    drawn = base(codes, SampleNoise(range(40))) - plain
    assert float(drawn.std()) == pytest.approx(float(grain), rel=0.1)


def test_brightness_and_spectrum_weigh_alike():
    photos = streaks(60) * torch.linspace(0.5, 2, 60).view(-1, 1, 1, 1)
    shade, spectrum = features(photos + 5 * torch.randn(60, 1, 1, 1)).split([64, 128], dim=1)
    for part in (shade, spectrum):
        assert float(torch.linalg.matrix_norm(part, 2)) == pytest.approx(1, rel=1e-3)

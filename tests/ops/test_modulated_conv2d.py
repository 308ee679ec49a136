from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from defectgen.errors import ConfigError
from defectgen.ops import modulated_conv2d
from defectgen.ops.modulated_conv2d import demodulation, energy, guard_overflow

pytestmark = pytest.mark.usefixtures("kernels")

TAPS = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8


def own_weights(weight, style, demodulate):
    """StyleGAN2, equations 1 and 3, for one sample."""
    own = weight * style[None, :, None, None]
    if demodulate:
        own = own / torch.sqrt(own.pow(2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
    return own


def sample_by_sample(x, weight, styles, demodulate, up):
    """One ordinary convolution per sample; up: explicit zeros, convolution, low-pass, gain 4."""
    out = []
    reach = weight.shape[2] // 2
    for one, style in zip(x, styles, strict=True):
        own = own_weights(weight, style, demodulate)
        if up == 1:
            out.append(F.conv2d(one[None], own, padding=reach)[0])
            continue
        c, h, w = one.shape
        sparse = one.new_zeros(1, c, 2 * h, 2 * w)
        sparse[0, :, ::2, ::2] = one
        # Nothing is cropped between the two filters: pad for both, then keep the middle.
        y = F.conv2d(F.pad(sparse, (8,) * 4), own)
        low = torch.outer(TAPS, TAPS).expand(y.shape[1], 1, 4, 4)
        y = 4 * F.conv2d(y, low, groups=y.shape[1])
        start = 8 - reach - 2
        out.append(y[0, :, start : start + 2 * h, start : start + 2 * w])
    return torch.stack(out)


def test_smoke():
    x, weight = torch.ones(1, 2, 1, 1), torch.tensor([[[[1.0]], [[2.0]]]])
    y = modulated_conv2d(x, weight, torch.tensor([[3.0, 4.0]]), demodulate=False)
    assert y.tolist() == [[[[11]]]]


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 1)])
def test_values_are_those_of_one_convolution_per_sample(normal, same, demodulate, up, kernel, size):
    x, weight, styles = normal(3, 2, *size), normal(4, 2, kernel, kernel), normal(3, 2)
    y = modulated_conv2d(x, weight, styles, demodulate=demodulate, up=up)
    assert y.shape == (3, 4, size[0] * up, size[1] * up)
    same(y, sample_by_sample(x, weight, styles, demodulate, up))


def test_pixel_by_pixel(normal, same):
    x, weight, styles = normal(2, 2, 3, 4), normal(3, 2, 3, 3), normal(2, 2)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    wanted = np.zeros((2, 3, 3, 4))
    for n, o, i, j in np.ndindex(wanted.shape):
        window = padded[n, :, i : i + 3, j : j + 3]
        wanted[n, o, i, j] = (window * weight[o].numpy() * styles[n].numpy()[:, None, None]).sum()
    same(modulated_conv2d(x, weight, styles, demodulate=False), wanted)


def test_demodulation_factor_of_every_pair(normal, same):
    weight, styles = normal(4, 3, 3, 3), normal(2, 3)
    wanted = np.zeros((2, 4))
    for n, o in np.ndindex(2, 4):
        total = ((weight[o] * styles[n][:, None, None]).numpy() ** 2).sum()
        wanted[n, o] = 1 / np.sqrt(total + 1e-8)
    same(demodulation(energy(weight), styles), wanted)
    assert torch.isfinite(demodulation(torch.zeros(4, 3), styles.float())).all()


@pytest.mark.parametrize("up", [1, 2])
def test_demodulated_output_has_unit_variance_whatever_weights_and_styles(normal, up):
    x, weight = normal(2, 16, 48, 48), normal(8, 16, 3, 3) * normal(8, 1, 1, 1).exp()
    styles = normal(2, 16).exp()
    inside = modulated_conv2d(x, weight, styles, up=up)[:, :, 4:-4, 4:-4]
    if up == 1:
        assert inside.std(dim=(2, 3)).sub(1).abs().max() < 0.12
    else:  # the low-pass keeps the mean level; each output pixel sees a quarter of the kernel
        assert 0.2 < inside.var() < 1.0
    plain = modulated_conv2d(x, weight, styles, up=up, demodulate=False)[:, :, 4:-4, 4:-4]
    assert plain.std(dim=(2, 3)).max() > 5


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_that_of_x(normal, same, up, dtype):
    x = normal(2, 4, 6, 6, dtype=dtype)
    stored = torch.promote_types(dtype, torch.float32)  # parameters are float32 at least
    weight, styles = normal(4, 4, 3, 3, dtype=stored), normal(2, 4, dtype=stored)
    y = modulated_conv2d(x, weight, styles, up=up)
    assert y.dtype == dtype
    same(y, sample_by_sample(x.double(), weight.double(), styles.double(), True, up))


def test_half_precision_does_not_overflow(normal):
    x = normal(2, 8, 6, 6)
    weight, styles = 300 * normal(4, 8, 3, 3), 300 * normal(2, 8)
    y = modulated_conv2d(x.half(), weight.float(), styles.float())
    torch.testing.assert_close(
        y.double(), modulated_conv2d(x, weight, styles), rtol=0.02, atol=0.02
    )
    unguarded = modulated_conv2d(x.half(), weight.float(), styles.float(), demodulate=False)
    assert not torch.isfinite(unguarded).all()  # the numbers are large enough to matter


def test_the_guard_bounds_both_factors_and_demodulation_cancels_it(normal):
    weight, styles = 50 * normal(4, 8, 3, 3), 70 * normal(2, 8)
    small, tame = guard_overflow(weight, styles)
    assert tame.abs().amax(dim=1).tolist() == [1.0, 1.0]
    torch.testing.assert_close(
        small.abs().amax(dim=(1, 2, 3)), torch.full((4,), 1 / 72**0.5, dtype=torch.float64)
    )
    x = normal(2, 8, 5, 5)
    torch.testing.assert_close(
        modulated_conv2d(x, small, tame), modulated_conv2d(x, weight, styles), rtol=1e-5, atol=1e-5
    )
    zero, none = guard_overflow(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1))
    assert (float(zero), float(none)) == (0.0, 0.0)


@pytest.mark.parametrize("up", [1, 2])
def test_memory_format_does_not_matter(normal, up):
    x, weight, styles = normal(2, 3, 5, 7), normal(4, 3, 3, 3), normal(2, 3)
    turned = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        modulated_conv2d(turned, weight, styles, up=up), modulated_conv2d(x, weight, styles, up=up)
    )


@pytest.mark.parametrize("up", [1, 2])
def test_empty_batch(up):
    y = modulated_conv2d(torch.zeros(0, 3, 4, 4), torch.ones(5, 3, 3, 3), torch.ones(0, 3), up=up)
    assert y.shape == (0, 5, 4 * up, 4 * up)


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize(("up", "demodulate"), [(1, True), (2, True), (2, False)])
def test_gradients_to_image_weight_and_styles(normal, check, up, demodulate):
    inputs = [t.requires_grad_() for t in (normal(2, 2, 2, 1), normal(1, 2, 3, 3), normal(2, 2))]
    fast = check is gradgradcheck  # along random directions instead of every entry
    assert check(
        lambda x, w, s: modulated_conv2d(x, w, s, demodulate=demodulate, up=up),
        inputs,
        fast_mode=fast,
    )


@pytest.mark.parametrize("styles", [(1, 3), (2, 4), (2,)])
def test_styles_that_do_not_fit_are_named(styles):
    with pytest.raises(ConfigError, match=r"^styles: one factor per .* \(2, 3\) .*; got styles"):
        modulated_conv2d(torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 3, 3), torch.zeros(styles))


def test_wrong_input_channels_are_named():
    with pytest.raises(ConfigError, match=r"x \(2, 4, 4, 4\); check both"):
        modulated_conv2d(torch.zeros(2, 4, 4, 4), torch.zeros(5, 3, 3, 3), torch.zeros(2, 3))


@pytest.mark.parametrize("up", [0, 3, 4])
def test_wrong_factor_is_named(up):
    with pytest.raises(ConfigError, match=f"^up: 1 or 2; got {up}; "):
        modulated_conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3), torch.ones(1, 1), up=up)

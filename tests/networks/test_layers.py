from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from defectgen.networks.layers import (
    Conv2d,
    Linear,
    ModulatedLayer,
    ToChannels,
    initialize,
    minibatch_std,
)
from defectgen.rng import no_noise

SQRT2 = math.sqrt(2)


def drawn(layer):
    initialize(layer, torch.Generator().manual_seed(3))
    return layer


def lrelu(x):
    return torch.where(x >= 0, x, 0.2 * x) * SQRT2


def low_pass(x, around):
    """[1, 3, 3, 1] / 8 in both directions, tap by tap."""
    x = F.pad(x, (around,) * 4)
    for axis in (2, 3):
        n = x.shape[axis] - 3
        taps = enumerate([0.125, 0.375, 0.375, 0.125])
        x = sum(tap * x.narrow(axis, k, n) for k, tap in taps)
    return x


# -- equalized learning rate ---


@pytest.mark.parametrize("lr_mult", [1.0, 0.01])
def test_linear_stores_unit_weights_over_the_rate(lr_mult):
    layer = drawn(Linear(300, 200, lr_mult=lr_mult, bias_init=0.7))
    stored, used = layer.weight.detach() * lr_mult, layer(torch.zeros(1, 300)).detach()
    assert float(stored.std()) == pytest.approx(1, abs=0.02)
    assert float(stored.mean()) == pytest.approx(0, abs=0.02)
    torch.testing.assert_close(used, torch.full((1, 200), 0.7))
    torch.testing.assert_close(layer.bias.detach(), torch.full((200,), 0.7 / lr_mult))


@pytest.mark.parametrize("lr_mult", [1.0, 0.01])
def test_linear_is_its_equation(normal, lr_mult):
    layer, x = drawn(Linear(5, 4, act="lrelu", lr_mult=lr_mult, bias_init=0.3)), normal(6, 5)
    wanted = lrelu(x @ (layer.weight.T * lr_mult / math.sqrt(5)) + 0.3)
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (Linear(256, 256), (64, 256)),
        (Linear(256, 256, lr_mult=0.01), (64, 256)),
        (Conv2d(48, 64, 1), (2, 48, 24, 24)),
        (Conv2d(48, 64, 3), (2, 48, 24, 24)),
    ],
)
def test_outputs_have_the_variance_of_the_inputs(normal, layer, size):
    y = drawn(layer)(normal(*size)).detach()
    inside = y if y.ndim == 2 else y[:, :, 1:-1, 1:-1]
    assert float(inside.std()) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("lr_mult", [1.0, 0.01])
def test_one_adam_step_has_one_relative_size_in_every_layer(normal, lr_mult):
    layer = drawn(Linear(64, 32, lr_mult=lr_mult))
    before = layer.weight.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01, betas=(0.0, 0.99))
    layer(normal(8, 64)).square().sum().backward()
    optimizer.step()
    used = (layer.weight.detach() - before).abs() * lr_mult  # in units of the used weight's spread
    torch.testing.assert_close(used, torch.full_like(used, 0.01 * lr_mult), rtol=1e-2, atol=1e-6)


# -- convolutions of the discriminator ---


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("act", ["linear", "lrelu"])
def test_conv_is_filter_then_convolution(normal, kernel, down, act):
    layer = drawn(Conv2d(3, 5, kernel, act=act, down=down, clamp=1.5))
    with torch.no_grad():
        layer.bias.copy_(normal(5))
    x = normal(2, 3, 8, 8)
    weight = layer.weight / math.sqrt(3 * kernel**2)
    if not down:
        y = F.conv2d(x, weight, padding=kernel // 2)
    elif kernel == 1:  # the low-pass centered between pixels 2i and 2i + 1
        y = F.conv2d(low_pass(x, 1)[:, :, ::2, ::2], weight)
    else:
        y = F.conv2d(low_pass(x, 2), weight)[:, :, ::2, ::2]
    y = y + layer.bias[None, :, None, None]
    y = lrelu(y) if act == "lrelu" else y
    torch.testing.assert_close(layer(x), y.clamp(-1.5, 1.5))
    # The gain scales the clamped result, so the clamp scales with it.
    torch.testing.assert_close(layer(x, gain=0.5), 0.5 * y.clamp(-1.5, 1.5))


def test_conv_without_bias_has_none():
    assert [name for name, _ in Conv2d(2, 2, 1, bias=False).named_parameters()] == ["weight"]


# -- modulated layers ---


def modulated_by_hand(layer, x, w, plane):
    out = []
    for one, latent in zip(x, w, strict=True):
        style = latent @ layer.affine.weight.T / math.sqrt(w.shape[1]) + layer.affine.bias
        weight = layer.weight * style[None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.up == 1:
            y = F.conv2d(one[None], weight, padding=1)
        else:
            sparse = torch.zeros(1, one.shape[0], 2 * one.shape[1], 2 * one.shape[2])
            sparse[0, :, ::2, ::2] = one
            y = 4 * low_pass(F.conv2d(F.pad(sparse, (2, 2, 2, 2)), weight), 1)
            y = y[:, :, : sparse.shape[2], : sparse.shape[3]]
        out.append(y[0])
    return lrelu(torch.stack(out) + layer.noise_strength * plane + layer.bias[None, :, None, None])


@pytest.mark.parametrize("up", [1, 2])
def test_modulated_layer_is_its_equation(normal, up):
    layer = drawn(ModulatedLayer("here", 3, 5, 6, 4 * up, up=up, clamp=2.0))
    with torch.no_grad():
        layer.bias.copy_(normal(5))
        layer.noise_strength.fill_(0.7)
    x, w, plane, asked = normal(2, 3, 4, 4), normal(2, 6), normal(2, 1, 4 * up, 4 * up), []

    def noise(name, batch, resolution):
        asked.append((name, batch, resolution))
        return plane

    wanted = modulated_by_hand(layer, x, w, plane).clamp(-2, 2)
    torch.testing.assert_close(layer(x, w, noise), wanted, rtol=1e-4, atol=1e-5)
    assert asked == [("here", 2, 4 * up)]
    without = modulated_by_hand(layer, x, w, torch.zeros(1)).clamp(-2, 2)
    torch.testing.assert_close(layer(x, w, no_noise), without, rtol=1e-4, atol=1e-5)


def test_modulated_layer_starts_with_neutral_styles_no_bias_and_no_noise(normal):
    layer = drawn(ModulatedLayer("here", 3, 5, 6, 4))
    assert layer.affine(torch.zeros(1, 6)).tolist() == [[1.0] * 3]
    assert layer.bias.tolist() == [0.0] * 5
    assert float(layer.noise_strength.detach()) == 0.0


def test_modulated_layer_has_unit_variance_before_its_activation(normal):
    layer = drawn(ModulatedLayer("here", 16, 8, 6, 48))
    y = layer(5 * normal(2, 16, 48, 48), 3 * normal(2, 6), no_noise)
    inside = y[:, :, 2:-2, 2:-2] / SQRT2
    linear = torch.where(inside >= 0, inside, inside / 0.2)
    torch.testing.assert_close(linear.std(dim=(2, 3)) / 5, torch.ones(2, 8), rtol=0.1, atol=0)


@pytest.mark.parametrize("up", [1, 2])
def test_modulated_layer_in_half_precision(normal, up):
    layer = drawn(ModulatedLayer("here", 8, 8, 6, 4 * up, up=up))
    with torch.no_grad():  # both beyond what half precision could multiply out
        layer.weight.mul_(300)
        layer.affine.bias.mul_(300)
    x, w = normal(2, 8, 4, 4), normal(2, 6)
    y = layer(x.half(), w, no_noise)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), layer(x, w, no_noise), rtol=0.02, atol=0.02)


def test_to_channels_does_not_demodulate(normal):
    layer = drawn(ToChannels(4, 3, 6, clamp=3.0))
    with torch.no_grad():
        layer.bias.copy_(normal(3))
    x, w = 2 * normal(2, 4, 5, 5), normal(2, 6)
    wanted = []
    for one, latent in zip(x, w, strict=True):
        style = (latent @ layer.affine.weight.T / math.sqrt(6) + 1) / math.sqrt(4)
        wanted.append(torch.einsum("oi,i,ihw->ohw", layer.weight[:, :, 0, 0], style, one))
    y = torch.stack(wanted) + layer.bias[None, :, None, None]
    assert float(y.detach().abs().max()) > 3
    torch.testing.assert_close(layer(x, w), y.clamp(-3, 3))


# -- minibatch standard deviation ---


@pytest.mark.parametrize(
    ("batch", "group", "size"), [(4, 4, 4), (8, 4, 4), (6, 4, 3), (5, 4, 1), (2, 4, 2), (3, 1, 1)]
)
def test_minibatch_std_group_by_group(normal, batch, group, size):
    x = normal(batch, 3, 2, 4)
    y = minibatch_std(x, group)
    assert y.shape == (batch, 4, 2, 4)
    assert torch.equal(y[:, :3], x)
    groups = batch // size
    for n in range(batch):
        others = [m for m in range(batch) if m % groups == n % groups]
        assert len(others) == size
        spread = x[others].numpy().std(axis=0).mean()
        torch.testing.assert_close(y[n, 3], torch.full((2, 4), float(spread)), rtol=1e-4, atol=2e-4)


def test_minibatch_std_of_equal_samples_has_a_finite_gradient(normal):
    x = normal(1, 2, 4, 4).repeat(4, 1, 1, 1).requires_grad_()
    minibatch_std(x, 4).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_minibatch_std_keeps_the_dtype_and_half_precision_does_not_overflow():
    x = torch.tensor([1000.0, -1000.0]).half().reshape(2, 1, 1, 1)
    y = minibatch_std(x, 4)
    assert y.dtype == torch.float16
    assert y[:, 1].flatten().tolist() == [1000.0, 1000.0]


def test_minibatch_std_is_exact_in_double_precision(normal):
    x = normal(4, 2, 3, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: minibatch_std(x, 4), x)


# -- drawing ---


def test_initialize_draws_every_weight_from_the_given_generator_only():
    def build(seed):
        network = nn.ModuleList(
            [Linear(4, 4), Conv2d(4, 4, 3), ModulatedLayer("a", 4, 4, 4, 4), ToChannels(4, 3, 4)]
        )
        initialize(network, torch.Generator().manual_seed(seed))
        return {k: v.clone() for k, v in network.state_dict().items()}

    before = torch.get_rng_state()
    first, again, other = build(0), build(0), build(1)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [k for k in first if k.endswith("weight")]
    assert len(weights) == 6  # two of them of affine layers
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in weights)
    assert all((first[k] == other[k]).all() for k in first if k not in weights)

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from defectgen.networks.discriminator import Discriminator


def build(resolution=32, channels=3, **other):
    sizes = {"channel_base": 256, "channel_max": 8, **other}
    network = Discriminator(resolution, channels, **sizes)
    network.reset(torch.Generator().manual_seed(2))
    return network


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("channels", "base", "widest", "parameters"),
    [
        (3, 16384, 512, 24_001_089),
        (4, 4096, 128, 1_502_113),
        (4, 8192, 256, 6_003_009),
        (4, 16384, 512, 24_001_153),
    ],
)
def test_published_sizes(channels, base, widest, parameters):
    with torch.device("meta"):
        network = Discriminator(256, channels, channel_base=base, channel_max=widest)
    assert count(network) == parameters
    assert list(network.blocks) == ["256", "128", "64", "32", "16", "8"]


def test_a_megapixel_discriminator_can_be_built():
    with torch.device("meta"):
        network = Discriminator(1024, 3, channel_base=32768, channel_max=512, half_resolutions=4)
    assert next(iter(network.blocks)) == "1024"
    assert [int(r) for r, block in network.blocks.items() if block.in_half] == [1024, 512, 256, 128]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_smoke(normal, resolution, channels):
    logits = build(resolution, channels)(normal(4, channels, resolution, resolution))
    assert logits.shape == (4, 1)
    assert logits.dtype == torch.float32
    assert float(logits.detach().std()) > 1e-4


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 6])
def test_any_batch_size(normal, batch):
    assert build(8)(normal(batch, 3, 8, 8)).shape == (batch, 1)


def lrelu(x):
    return torch.where(x >= 0, x, 0.2 * x) * math.sqrt(2)


def equalized(layer):
    return layer.weight / math.sqrt(layer.weight[0].numel())


def low_pass(x, around):
    x = F.pad(x, (around,) * 4)
    kernel = torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1])) / 64
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


def by_hand(d, x):
    """The description of the fact sheet, section 1.4, in plain functions, without biases."""
    x = lrelu(F.conv2d(x, equalized(d.from_input)))
    for block in d.blocks.values():
        skip = F.conv2d(low_pass(x, 1)[:, :, ::2, ::2], equalized(block.skip))
        y = lrelu(F.conv2d(x, equalized(block.conv0), padding=1))
        y = lrelu(F.conv2d(low_pass(y, 2), equalized(block.conv1))[:, :, ::2, ::2])
        x = (skip + y) * math.sqrt(0.5)
    spread = x.std(dim=0, unbiased=False).mean()
    x = torch.cat([x, spread.expand(len(x), 1, 4, 4)], dim=1)
    x = lrelu(F.conv2d(x, equalized(d.conv), padding=1)).flatten(1)
    x = lrelu(x @ d.dense.weight.T / math.sqrt(d.dense.weight.shape[1]))
    return x @ d.out.weight.T / math.sqrt(d.out.weight.shape[1])


def test_values_are_those_of_the_description(normal):
    network, x = build(16), normal(4, 3, 16, 16)
    torch.testing.assert_close(network(x), by_hand(network, x), rtol=1e-3, atol=1e-4)


def test_activations_are_limited(normal):
    x = 1e6 * normal(2, 3, 8, 8)
    with torch.no_grad():
        limited, free = build(8, clamp=256.0)(x), build(8, clamp=None)(x)
    assert float(limited.abs().max()) < 5_000
    assert float(free.abs().max()) > 50_000


def test_a_group_is_judged_together_and_groups_apart(normal):
    network = build(8, minibatch_group=2)
    x = normal(4, 3, 8, 8)
    changed = x.clone()
    changed[0] = normal(3, 8, 8)
    moved = (network(x) - network(changed)).abs().flatten() > 1e-6
    assert moved.tolist() == [True, False, True, False]  # groups are samples n, n + N / size, ...


def test_memory_format_does_not_matter(normal):
    network, x = build(16), normal(4, 3, 16, 16)
    turned = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(turned), network(x))


def test_half_precision_is_for_accelerators_only(normal):
    x = normal(4, 3, 16, 16)
    assert torch.equal(build(16, half_resolutions=2)(x), build(16)(x))


def test_every_input_pixel_and_every_parameter_has_a_gradient(normal):
    network, x = build(16, 4), normal(4, 4, 16, 16).requires_grad_()
    logits = network(x).sum()
    assert float(grad(logits, x, retain_graph=True)[0].abs().amin()) > 0
    logits.backward()
    assert [k for k, p in network.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_second_derivatives_exist(normal):
    network, x = build(16), normal(4, 3, 16, 16).requires_grad_()
    (slope,) = grad(network(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert float(network.blocks["16"].conv0.weight.grad.abs().sum()) > 0
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_weights_depend_on_the_generator_only():
    before = torch.get_rng_state()
    first, again = build(16).state_dict(), build(16).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)

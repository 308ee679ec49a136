from __future__ import annotations

import pytest
import torch

from defectgen.config import BackboneConfig, backbone_config
from defectgen.networks.synthesis import Generator, SynthesisNetwork
from defectgen.ops import upsample2d
from defectgen.rng import SampleNoise, no_noise


def count(module):
    return sum(p.numel() for p in module.parameters())


# -- the published shape ---


def test_published_generator_has_23_191_522_parameters():
    with torch.device("meta"):
        generator = Generator(backbone_config(256, 3, "dfmgan"))
    assert count(generator) == 23_191_522
    assert generator.synthesis.num_ws == 14
    widths = {r: b.conv1.weight.shape[0] for r, b in generator.synthesis.blocks.items()}
    assert list(widths.values()) == [512, 512, 512, 512, 256, 128, 64]
    assert list(widths) == ["4", "8", "16", "32", "64", "128", "256"]
    half = [r for r, b in generator.synthesis.blocks.items() if b.in_half]
    assert half == ["32", "64", "128", "256"]


def test_a_megapixel_generator_can_be_built():
    with torch.device("meta"):
        synthesis = SynthesisNetwork(backbone_config(1024, 3, "dfmgan"))
        ours = SynthesisNetwork(backbone_config(1024, 1, None))
    assert synthesis.num_ws == ours.num_ws == 18
    assert synthesis.blocks["1024"].conv1.weight.shape == (32, 32, 3, 3)
    assert ours.blocks["1024"].to_rgb.weight.shape[0] == 1


# -- forward ---


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [32, 64])
def test_smoke(backbone, normal, resolution, channels):
    generator = backbone(resolution, channels)
    image = generator(normal(2, 16), SampleNoise([0, 1]))
    assert image.shape == (2, channels, resolution, resolution)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    assert torch.isfinite(image).all()
    assert float((image[0] - image[1]).detach().abs().mean()) > 0.01


def test_every_layer_reads_its_own_slot(backbone, record):
    generator = backbone(32)
    seen = record(generator)
    slots = torch.arange(8.0)[None, :, None].expand(2, -1, 12)  # slot k holds the number k
    generator.synthesis(slots, no_noise)
    found = {
        name.removeprefix("synthesis.blocks."): float(inputs[1][0, 0].detach())
        for name, (inputs, _) in seen.items()
    }
    assert found == {
        "4.conv1": 0, "4.to_rgb": 1,
        "8.conv0": 1, "8.conv1": 2, "8.to_rgb": 3,
        "16.conv0": 3, "16.conv1": 4, "16.to_rgb": 5,
        "32.conv0": 5, "32.conv1": 6, "32.to_rgb": 7,
    }  # fmt: skip


def test_image_is_the_sum_of_upsampled_heads(backbone, record, normal):
    generator = backbone(32)
    seen = record(generator)
    image = generator(normal(2, 16), SampleNoise([0, 1]))
    total = torch.zeros(2, 3, 32, 32)
    for r in (4, 8, 16, 32):
        head = seen[f"synthesis.blocks.{r}.to_rgb"][1]
        while head.shape[-1] < 32:
            head = upsample2d(head)
        total = total + head
    torch.testing.assert_close(image, total, rtol=1e-4, atol=1e-5)


def test_blocks_feed_each_other(backbone, record, normal):
    generator = backbone(32)
    seen = record(generator)
    generator(normal(2, 16), SampleNoise([0, 1]))
    const = generator.synthesis.blocks["4"].const
    layers = {k.removeprefix("synthesis.blocks."): v for k, v in seen.items()}
    assert torch.equal(layers["4.conv1"][0][0], const.expand(2, -1, -1, -1))
    for r in (8, 16, 32):
        assert torch.equal(layers[f"{r}.conv0"][0][0], layers[f"{r // 2}.conv1"][1])
        assert torch.equal(layers[f"{r}.conv1"][0][0], layers[f"{r}.conv0"][1])
        assert torch.equal(layers[f"{r}.to_rgb"][0][0], layers[f"{r}.conv1"][1])


def test_residual_sees_and_replaces_the_features_of_every_block(backbone, record, normal):
    generator, z = backbone(32), normal(2, 16)
    plain = generator(z, no_noise)
    seen, calls = record(generator), []

    def nothing(resolution, x_in, x_out):
        calls.append((resolution, None if x_in is None else x_in.shape[-1], x_out.shape[-1]))
        return x_out

    ws = generator.broadcast(generator.mapping(z))
    assert torch.equal(generator.synthesis(ws, no_noise, nothing), plain)
    assert calls == [(4, None, 4), (8, 4, 8), (16, 8, 16), (32, 16, 32)]

    def marker(resolution, x_in, x_out):
        if resolution == 32:
            assert (x_in == 7).all()
        return torch.full_like(x_out, 7.0) if resolution == 16 else x_out

    generator.synthesis(ws, no_noise, marker)
    assert (seen["synthesis.blocks.16.to_rgb"][0][0] == 7).all()
    assert (seen["synthesis.blocks.32.conv0"][0][0] == 7).all()


def test_noise_changes_the_image_only_where_its_strength_is_not_zero(backbone, normal):
    generator, z = backbone(32), normal(2, 16)
    one, other = (generator(z, SampleNoise(s)) for s in ([0, 1], [2, 3]))
    assert not torch.allclose(one, other)
    fresh = Generator(generator.config)
    fresh.reset(torch.Generator().manual_seed(0))
    assert torch.equal(fresh(z, SampleNoise([0, 1])), fresh(z, no_noise))


def test_every_layer_has_noise_of_its_own(backbone, normal):
    asked = []

    def noise(layer, batch, resolution):
        asked.append((layer, batch, resolution))

    backbone(16)(normal(3, 16), noise)
    assert asked == [
        ("b4.conv1", 3, 4),
        ("b8.conv0", 3, 8),
        ("b8.conv1", 3, 8),
        ("b16.conv0", 3, 16),
        ("b16.conv1", 3, 16),
    ]


def test_a_sample_depends_on_its_own_latent_and_seed_only(backbone, normal):
    generator, z, seeds = backbone(32), normal(5, 16), [3, 1, 4, 1, 5]
    together = generator(z, SampleNoise(seeds))
    alone = [generator(z[i : i + 1], SampleNoise(seeds[i : i + 1])) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_weights_depend_on_the_generator_only(backbone):
    before = torch.get_rng_state()
    first, again = backbone(16).state_dict(), backbone(16).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert float(first["synthesis.blocks.4.const"].std()) == pytest.approx(1, abs=0.25)


def test_truncation_reaches_the_image(backbone, normal):
    generator = backbone(16)
    images = generator(normal(2, 16), no_noise, psi=0.0)
    torch.testing.assert_close(images[0], images[1])


def test_every_parameter_has_a_gradient(backbone, normal):
    generator = backbone(16)
    with torch.no_grad():  # at zero latent the affine weights would have none
        generator.mapping.layers[0].bias.fill_(1.0)
    generator(normal(2, 16), SampleNoise([0, 1])).square().sum().backward()
    assert [k for k, p in generator.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_empty_batch(backbone):
    assert backbone(16)(torch.zeros(0, 16), SampleNoise([])).shape == (0, 3, 16, 16)


def test_double_precision_passes_through(backbone, normal):
    generator, z = backbone(16), normal(2, 16)
    exact = generator.double()(z.double(), no_noise)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), generator.float()(z, no_noise), rtol=1e-3, atol=1e-4)


def test_width_rule():
    config = BackboneConfig(resolution=256, channel_base=16384, channel_max=512)
    assert [config.width(4 << k) for k in range(7)] == [512, 512, 512, 512, 256, 128, 64]

from __future__ import annotations

import pytest
import torch

from defectgen.config import BackboneConfig
from defectgen.networks.layers import ModulatedLayer, ToChannels
from defectgen.networks.synthesis import Generator


@pytest.fixture
def normal():
    """normal(*shape): standard normal numbers, the same in every run of a test."""
    source = torch.Generator().manual_seed(0)

    def draw(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)

    return draw


def tiny(resolution=32, channels=3, **other):
    """A configuration small enough for a test."""
    sizes = {"z_dim": 16, "w_dim": 12, "channel_base": 256, "channel_max": 8, **other}
    return BackboneConfig(resolution=resolution, channels=channels, **sizes)


@pytest.fixture
def config():
    """config(resolution=32, channels=3, **fields): a tiny BackboneConfig."""
    return tiny


@pytest.fixture
def backbone():
    """backbone(resolution=32, channels=3, **fields): a tiny generator with weights and noise."""

    def build(*args, **fields):
        generator = Generator(tiny(*args, **fields))
        generator.reset(torch.Generator().manual_seed(1))
        with torch.no_grad():
            for layer in generator.modules():
                if isinstance(layer, ModulatedLayer):
                    layer.noise_strength.fill_(0.2)
        return generator

    return build


@pytest.fixture
def record():
    """record(network): dict that fills with name -> (inputs, output) of each layer as it runs."""
    hooks = []

    def watch(network):
        seen = {}

        def keep(name):
            def hook(module, inputs, output):
                seen[name] = (inputs, output)

            return hook

        for name, module in network.named_modules():
            if isinstance(module, ModulatedLayer | ToChannels):
                hooks.append(module.register_forward_hook(keep(name)))
        return seen

    yield watch
    for hook in hooks:
        hook.remove()

"""The base image against numpy's principal components."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from defectgen.config import BackboneConfig
from defectgen.networks.base import BASE_IMAGES, BaseImage
from defectgen.networks.synthesis import Generator, SynthesisNetwork
from defectgen.rng import generator, no_noise

CONFIG = BackboneConfig(
    resolution=16, z_dim=4, w_dim=12, channel_base=64, channel_max=8, base_components=3
)


def images(n, seed=0):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def scores(pictures, count):
    """Principal scores of unit variance, and the picture that the first ones give."""
    flat = pictures.flatten(1).double().numpy()
    mean = flat.mean(0)
    u, s, v = np.linalg.svd(flat - mean, full_matrices=False)
    kept = (u[:, :count] * s[:count]) @ v[:count] + mean
    return u[:, :count] * np.sqrt(len(flat)), torch.from_numpy(kept).float().view_as(pictures)


def test_codes_of_the_images_give_their_first_components():
    pictures = images(10)
    unit, expected = scores(pictures, 3)
    codes = torch.zeros(10, 12)
    codes[:, 4:7] = torch.from_numpy(unit).float()  # any place of W will do
    base = BaseImage(CONFIG)
    base.set(pictures, codes)
    torch.testing.assert_close(base(codes), expected, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(base(torch.zeros(1, 12))[0], pictures.mean(0))


def test_coefficients_vary_by_about_one():
    pictures = images(40)
    codes = torch.from_numpy(scores(pictures, 3)[0]).float()
    base = BaseImage(replace(CONFIG, w_dim=3))
    base.set(pictures, codes)
    found = base.coefficients(codes)
    torch.testing.assert_close(found.std(0, unbiased=False), torch.ones(3), rtol=0, atol=0.01)


def test_fewer_images_than_components_leave_the_rest_empty():
    pictures = images(3)
    base = BaseImage(CONFIG)
    base.set(pictures, torch.eye(3, 12))
    assert not base.components[2].any()
    assert base.components[:2].any()
    torch.testing.assert_close(base(torch.eye(3, 12)), pictures, rtol=1e-2, atol=2e-2)


def test_of_many_images_some_are_taken():
    pictures = images(2 * BASE_IMAGES + 1)
    base = BaseImage(CONFIG)
    base.set(pictures, torch.zeros(len(pictures), 12))
    torch.testing.assert_close(base.mean, pictures[::3].mean(0))


def test_a_fresh_generator_renders_its_base():
    network = Generator(CONFIG)
    network.reset(generator(0, "base"))
    codes = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    network.synthesis.base.set(images(5), codes)
    with torch.no_grad():
        drawn = network.synthesis(network.broadcast(codes), no_noise)
    torch.testing.assert_close(drawn, network.synthesis.base(codes).detach())


@pytest.mark.parametrize("count", [0, 2])
def test_a_base_is_there_if_it_has_components(count):
    network = SynthesisNetwork(replace(CONFIG, base_components=count))
    assert (network.base is None) == (count == 0)

"""Blends of codes, and the linear mapping."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from defectgen.networks.mapping import CodeMapping, MappingNetwork, blend
from defectgen.training.adversarial import Codes, principal_codes


def normal(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def mapping():
    found = CodeMapping(4, 6, 5)
    Codes.of(found, normal(5, 6), F.normalize(normal(5, 4, seed=1), dim=1))
    return found


def test_weights_are_shares_and_their_length_does_not_matter(mapping):
    z = normal(7, 4, seed=2)
    shares = blend(z, mapping.keys)
    torch.testing.assert_close(shares.sum(1), torch.ones(7))
    torch.testing.assert_close(blend(3 * z, mapping.keys), shares)


def test_a_key_means_its_code_more_than_any_other(mapping):
    assert blend(mapping.keys, mapping.keys).argmax(1).tolist() == list(range(5))
    keys = torch.tensor([[1.0, 0], [-1.0, 0]])
    assert blend(keys, keys)[0, 0] > 0.9999


def test_blends_lie_between_the_codes_and_truncation_ends_at_their_mean(mapping):
    z = normal(200, 4, seed=3)
    w = mapping(z)
    assert (w <= mapping.table.max(0).values + 1e-6).all()
    assert (w >= mapping.table.min(0).values - 1e-6).all()
    center = mapping.table.detach().mean(0)
    torch.testing.assert_close(mapping.w_avg, center)
    mapping(z, update_mean=True)
    torch.testing.assert_close(mapping.w_avg, 0.995 * center + 0.005 * w.detach().mean(0))
    torch.testing.assert_close(mapping(z, psi=0.0), mapping.w_avg.expand(200, -1))


def test_codes_of_a_mapping_are_learned_there(mapping):
    codes = Codes.of(mapping, normal(5, 6, seed=4), mapping.keys)
    assert codes.table is mapping.table
    with torch.no_grad():
        codes.table.add_(1)
    torch.testing.assert_close(mapping.table, normal(5, 6, seed=4) + 1)


def test_no_layers_make_a_linear_map():
    network = MappingNetwork(3, 5, 0)
    network.layers[0].reset(torch.Generator().manual_seed(0))
    a, b = (F.normalize(normal(1, 3, seed=s), dim=1) for s in (1, 2))
    both = a + b
    scale = both.norm()
    torch.testing.assert_close(network(both) * scale, network(a) + network(b))


def test_a_linear_blend_has_the_mean_and_covariance_of_the_codes():
    """Where the scores span the codes, drawn w are distributed as the codes are."""
    images = normal(30, 1, 16, 16) * torch.linspace(0.1, 2, 16)
    starts, keys = principal_codes(images, 40, 29, torch.Generator().manual_seed(0), linear=True)
    torch.testing.assert_close(keys.t() @ keys / 30, torch.eye(29), rtol=0, atol=1e-3)
    table = keys @ normal(29, 6, seed=5) + 2.0
    codes = Codes(table, keys, linear=True)
    w = codes.blend(normal(40000, 29, seed=6)).detach()
    torch.testing.assert_close(w.mean(0), table.mean(0), rtol=0, atol=0.15)
    torch.testing.assert_close(w.T.cov(), table.T.cov(correction=0), rtol=0.1, atol=1.0)
    assert starts.shape == (30, 40)
    network = MappingNetwork(29, 6, 0)
    network.set(*(part.detach() for part in codes.line()))
    z = normal(100, 29, seed=7)
    torch.testing.assert_close(network(z), codes.blend(z), rtol=1e-4, atol=1e-3)

from __future__ import annotations

import math

import pytest
import torch

from defectgen.networks.layers import initialize
from defectgen.networks.mapping import MappingNetwork, mix_styles


@pytest.fixture
def mapping():
    network = MappingNetwork(16, 12, 2)
    initialize(network, torch.Generator().manual_seed(0))
    return network


def test_values_are_those_of_two_layers_on_a_sphere(mapping, normal):
    z = normal(5, 16)
    w = z / z.square().mean(dim=1, keepdim=True).sqrt()
    for layer in mapping.layers:
        w = w @ layer.weight.T * 0.01 / math.sqrt(w.shape[1])
        w = torch.where(w >= 0, w, 0.2 * w) * math.sqrt(2)
    torch.testing.assert_close(mapping(z), w)
    assert len(mapping.layers) == 2


def test_length_of_z_does_not_matter(mapping, normal):
    z = normal(5, 16)
    torch.testing.assert_close(mapping(z), mapping(30 * z))
    assert not torch.allclose(mapping(z), mapping(-z))


def test_zero_z_is_finite(mapping):
    z = torch.zeros(1, 16, requires_grad=True)
    mapping(z).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_outputs_have_unit_scale_at_the_start(normal):
    network = MappingNetwork(512, 512, 2)
    initialize(network, torch.Generator().manual_seed(0))
    assert float(network(normal(64, 512)).detach().square().mean()) == pytest.approx(1.08, abs=0.15)


def test_running_mean_moves_by_a_two_hundredth_and_only_when_asked(mapping, normal):
    z = normal(64, 16)
    mean = mapping(z).mean(dim=0).detach()
    assert mapping.w_avg.tolist() == [0.0] * 12
    mapping(z, update_mean=True)
    torch.testing.assert_close(mapping.w_avg, 0.005 * mean)
    mapping(z, update_mean=True)
    torch.testing.assert_close(mapping.w_avg, (0.995 * 0.005 + 0.005) * mean)
    assert not mapping.w_avg.requires_grad
    assert "w_avg" in mapping.state_dict()


def test_truncation_pulls_towards_the_mean(mapping, normal):
    z = normal(4, 16)
    mapping.w_avg.copy_(normal(12))
    w, center = mapping(z), mapping.w_avg
    for psi in (0.0, 0.3, 1.4):
        torch.testing.assert_close(mapping(z, psi=psi), center + psi * (w - center))
    assert torch.equal(mapping(z, psi=1.0), w)


# -- style mixing ---


def cuts(ws, other, probability, count):
    """Slot from which each of ``count`` mixed latents is the other one; None where none is."""
    source, found = torch.Generator().manual_seed(0), []
    for _ in range(count):
        mixed = mix_styles(ws, other, probability, source)
        assert mixed.shape == ws.shape
        taken = (mixed == other[:, None]).all(dim=2)
        assert torch.equal(taken, taken[:1].expand_as(taken))  # one crossover for the whole batch
        cut = int(taken[0].logical_not().sum())
        assert torch.equal(mixed[:, :cut], ws[:, :cut])
        assert taken[0, cut:].all()
        found.append(cut if cut < ws.shape[1] else None)
    return found


def test_mixing_takes_the_other_latent_from_a_uniform_slot_up(normal):
    ws, other = normal(3, 6, 4), normal(3, 4)
    found = cuts(ws, other, 1.0, 1000)
    for slot in range(1, 6):
        assert found.count(slot) == pytest.approx(200, abs=50)
    assert set(found) == {1, 2, 3, 4, 5}  # the first slot always stays


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.9, 860, 940)])
def test_mixing_happens_with_its_probability(normal, probability, low, high):
    found = cuts(normal(2, 6, 4), normal(2, 4), probability, 1000)
    assert low <= 1000 - found.count(None) <= high


def test_mixing_uses_as_many_random_numbers_whether_it_happens_or_not(normal):
    ws, other, states = normal(2, 6, 4), normal(2, 4), []
    for probability in (0.0, 1.0):
        source = torch.Generator().manual_seed(0)
        mix_styles(ws, other, probability, source)
        states.append(source.get_state())
    assert torch.equal(*states)

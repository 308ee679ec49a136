"""One residual block on its own, beside a block of somebody else."""

from __future__ import annotations

import pytest
import torch

from defectgen.networks.defect_block import DefectAwareResBlock
from defectgen.rng import SampleNoise, no_noise


def build(**fields):
    return DefectAwareResBlock(4, 6, 5, 16, **{"has_mask": True, **fields})


def test_smoke(normal):
    block, x_in, x_out, ws = build(), normal(2, 4, 8, 8), normal(2, 6, 16, 16), normal(2, 3, 5)
    y, logits = block(x_in, x_out, ws, SampleNoise([0, 1]))
    assert y.shape == x_out.shape
    assert logits.shape == (2, 1, 16, 16)
    gate = (logits >= 0).expand_as(y)
    h = block.features(x_in, ws, SampleNoise([0, 1]))
    assert torch.equal(y, torch.where(gate, x_out + h, x_out))
    assert gate.any()
    assert not gate.all()


@pytest.mark.parametrize("size", [4, 16])
def test_logits_from_elsewhere_replace_the_head(normal, size):
    x_in, x_out, ws = normal(2, 4, 8, 8), normal(2, 6, 16, 16), normal(2, 2, 5)
    block, given = build(has_mask=False), torch.full((2, 1, size, size), -1.0)
    y, logits = block(x_in, x_out, ws, no_noise, logits=given)
    assert torch.equal(y, x_out)
    assert logits is given
    within = normal(2, 1, 16, 16) > 0
    y, _ = block(x_in, x_out, ws, no_noise, logits=-given, within=within)
    wanted = x_out + block.features(x_in, ws, no_noise) * within
    torch.testing.assert_close(y, wanted)


def test_a_block_without_a_head_says_so(normal):
    with pytest.raises(
        TypeError, match=r"^logits: a block built with has_mask=True; this one at 16"
    ):
        build(has_mask=False).logits(normal(1, 6, 16, 16), normal(1, 5))


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_logits_are_exact_though_the_features_are_half(normal, dtype, wanted):
    block, features, w = build(), normal(2, 6, 16, 16).to(dtype), normal(2, 5)
    if dtype == torch.float64:
        block, w = block.double(), w.double()
    m = block.logits(features, w)
    assert m.dtype == wanted
    exact = build().double().logits(features.double(), w.double())
    torch.testing.assert_close(m.double(), exact, rtol=1e-5, atol=1e-5)


def test_half_features_stay_half_and_their_gate_is_exact(normal):
    block, ws = build(), normal(2, 3, 5)
    x_in, x_out = normal(2, 4, 8, 8), normal(2, 6, 16, 16).half()
    y, logits = block(x_in, x_out, ws, no_noise)
    assert (y.dtype, logits.dtype) == (torch.float16, torch.float32)
    outside = (logits < 0).expand_as(y)
    assert torch.equal(y[outside], x_out[outside])


@pytest.mark.parametrize("gate", ["hard", "straight_through"])
def test_only_a_straight_through_gate_trains_the_head(normal, gate):
    block = build(gate=gate)
    y, _ = block(normal(2, 4, 8, 8), normal(2, 6, 16, 16), normal(2, 3, 5), no_noise)
    y.square().sum().backward()
    slope = block.to_mask.bias.grad
    assert (slope is None) == (gate == "hard")
    assert block.conv0.weight.grad.abs().sum() > 0


def test_weights_depend_on_the_seed_only():
    before = torch.get_rng_state()
    first, again, other = (build(seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["conv0.weight"], other["conv0.weight"])
    assert first["conv0.weight"].std() == pytest.approx(1, abs=0.15)

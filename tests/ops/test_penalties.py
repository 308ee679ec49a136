"""R1 and path length differentiate the ops twice: both implementations train the same network."""

from __future__ import annotations

import pytest
import torch

from defectgen import losses
from defectgen.config import BackboneConfig, DefectConfig
from defectgen.networks.defect import DefectBranch
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.layers import ModulatedLayer
from defectgen.networks.synthesis import Generator
from defectgen.ops import _dispatch
from defectgen.rng import SampleNoise

#: Largest difference of a gradient, relative to the largest number of the reference's.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-4}
PRECISIONS = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
NOISE = SampleNoise([7, 8])


def both(step, *networks):
    """Loss and gradients of all parameters, in mode "reference" and in mode "fused"."""
    found = []
    for mode in ("reference", "fused"):
        parameters = {n: p for network in networks for n, p in network.named_parameters()}
        with _dispatch.use_kernels(mode):
            loss = step()
            got = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        found.append({"loss": loss.detach()} | dict(zip(parameters, got, strict=True)))
    return found


def compare(reference, fused):
    reached = 0
    for name, wanted in reference.items():
        got = fused[name]
        if wanted is None or got is None:
            assert not any(g is not None and g.any() for g in (wanted, got)), name
            continue
        size = wanted.abs().max().item()
        assert (got - wanted).abs().max().item() <= TOLERANCES[wanted.dtype] * size, name
        reached += size > 0
    return reached


@PRECISIONS
@pytest.mark.parametrize("channels", [3, 4])
def test_r1(native, device, normal, dtype, channels):
    judge = Discriminator(16, channels, channel_base=128, channel_max=16, clamp=2.0)
    judge.reset(torch.Generator().manual_seed(0))
    judge = judge.to(device, dtype)
    real = normal(4, channels, 16, 16, dtype=dtype).to(device).requires_grad_()

    def step():
        return losses.r1_penalty(judge(real), real, 0.7)

    assert compare(*both(step, judge)) > 10


@pytest.fixture
def pair(device):
    """pair(dtype, gate): a generator and a branch that opens about half of its gates."""

    def build(dtype, gate):
        sizes = {"z_dim": 8, "w_dim": 12, "channel_base": 256, "channel_max": 8}
        generator = Generator(BackboneConfig(resolution=16, channels=3, **sizes))
        branch = DefectBranch(generator.config, DefectConfig(first_resolution=8, gate=gate))
        generator.reset(torch.Generator().manual_seed(1))
        branch.reset(torch.Generator().manual_seed(2))
        with torch.no_grad():
            for layer in [*generator.modules(), *branch.modules()]:
                if isinstance(layer, ModulatedLayer):
                    layer.noise_strength.fill_(0.2)
        return generator.to(device, dtype), branch.to(device, dtype)

    return build


def render(generator, branch, ws, defects):
    hook = branch.start(defects, NOISE)
    return generator.synthesis(ws, NOISE, hook), hook


@PRECISIONS
def test_path_length_of_the_backbone(native, device, pair, normal, dtype):
    generator, _ = pair(dtype, "hard")
    z, directions = (normal(2, *s, dtype=dtype).to(device) for s in [(8,), (3, 16, 16)])

    def step():
        ws = generator.broadcast(generator.mapping(z))
        images = generator.synthesis(ws, NOISE)
        return losses.path_lengths(images, ws, directions).square().mean()

    assert compare(*both(step, generator)) > 20


@PRECISIONS
@pytest.mark.parametrize("gate", ["hard", "straight_through"])
@pytest.mark.parametrize("contained", [False, True])
def test_path_length_through_the_branch(native, device, pair, normal, dtype, gate, contained):
    generator, branch = pair(dtype, gate)
    branch.config = DefectConfig(first_resolution=8, gate=gate, contained=contained)
    z, z_defect = normal(2, 8, dtype=dtype).to(device), normal(2, 8, dtype=dtype).to(device)
    directions = normal(2, 3, 16, 16, dtype=dtype).to(device)
    with torch.no_grad():
        ws = generator.broadcast(generator.mapping(z))
    open_gates = []

    def step():
        defects = branch.broadcast(branch.mapping(z_defect))
        images, hook = render(generator, branch, ws, defects)
        open_gates.append(hook.gates)
        return losses.path_lengths(images, defects, directions).square().mean()

    assert compare(*both(step, branch)) > 10
    for reference, fused in zip(open_gates[0].values(), open_gates[1].values(), strict=True):
        assert torch.equal(reference, fused)
        assert 0.02 < reference.float().mean() < 0.98

"""The good twin: the same part without the defect, bit-equal wherever nothing was drawn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import defectgen.sampling
from defectgen.config import BackboneConfig, DefectConfig
from defectgen.networks.defect import DefectBranch, receptive_radius
from defectgen.networks.layers import ModulatedLayer
from defectgen.networks.synthesis import Generator
from defectgen.rng import SampleNoise, latents, sample_seeds
from defectgen.sampling import draw_defects
from defectgen.training.defect_start import initial_mask_bias

WIDTHS = {"narrow": (16, 256, 16), "wide": (64, 2048, 128)}  # W, channel base, widest


class Blob(nn.Module):
    """Stands in for the mask head: one round spot per sample, at a place of its own."""

    def forward(self, features, w):
        n, _, side, _ = features.shape
        axis = torch.arange(side, dtype=torch.float32)
        place = torch.arange(n, dtype=torch.float32)[:, None, None]
        y, x = (axis[:, None] - 3 - place % 9) ** 2, (axis[None] - 4 - (2 * place) % 8) ** 2
        return (4.5 - y - x)[:, None]


@pytest.fixture(params=list(WIDTHS))
def networks(request):
    """networks(**fields of DefectConfig): generator and branch at 64 px with active noise."""
    w_dim, base, widest = WIDTHS[request.param]

    def build(**fields):
        shape = BackboneConfig(
            resolution=64, z_dim=16, w_dim=w_dim, channel_base=base, channel_max=widest
        )
        network = Generator(shape)
        network.reset(torch.Generator().manual_seed(1))
        branch = DefectBranch(shape, DefectConfig(first_resolution=16, **fields))
        branch.reset(torch.Generator().manual_seed(2))
        for part in (network, branch):
            part.requires_grad_(False)
            for layer in part.modules():
                if isinstance(layer, ModulatedLayer):
                    layer.noise_strength.fill_(0.2)
        return network, branch

    return build


@pytest.fixture
def draw(monkeypatch):
    """draw(network, branch): the batch with normals, and the pass that decided it.

    The pictures are not clamped: that would hide differences of an untrained network.
    """

    def run(network, branch, n=6):
        passes = []
        start = DefectBranch.start
        with monkeypatch.context() as patch:
            patch.setattr(defectgen.sampling, "to_unit", lambda images: images)
            patch.setattr(DefectBranch, "start", lambda *a: passes.append(start(*a)) or passes[-1])
            batch = draw_defects(network, branch, sample_seeds(n, 0), 1.0, normals=True)
        (hook,) = passes
        return batch, hook

    return run


def union_of_gates(hook, resolution=64):
    """Where any gate is open, in image pixels, bool (N, 1, R, R)."""
    large = [F.interpolate(gate.float(), resolution) > 0 for gate in hook.gates.values()]
    return torch.stack(large).any(dim=0)


def dilated(region, by):
    return F.max_pool2d(region.float(), 2 * by + 1, stride=1, padding=by) > 0


def local_head(network, branch):
    """Lower the bias of the real mask head until about one pixel in fifty is defective."""
    seeds = sample_seeds(6, 0)
    w, d = (m(latents(seeds, 16, name)) for m, name in
            ((network.mapping, "object"), (branch.mapping, "defect")))  # fmt: skip
    hook = branch.start(branch.broadcast(d), SampleNoise(seeds))
    network.synthesis(network.broadcast(w), SampleNoise(seeds), hook)
    initial_mask_bias(branch, hook.final_logits, 0.02)


@pytest.fixture
def take_threads():
    """take_threads(n), for this test only."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("head", "contained", "threads"),
    [("blob", True, 1), ("blob", False, 1), ("real", True, 2), ("real", False, 1)],
)
def test_image_and_twin_are_bit_identical_out_of_reach_of_the_gates(
    networks, draw, head, contained, threads, take_threads
):
    take_threads(threads)
    network, branch = networks(contained=contained)
    if head == "blob":
        branch.first.to_mask = Blob()
    else:
        local_head(network, branch)
    batch, hook = draw(network, branch)
    radius = receptive_radius(16, 64)
    assert radius == 9
    gates = union_of_gates(hook)
    assert gates.any()
    assert all(gate.any() for gate in hook.gates.values()) or head == "real"
    far = ~dilated(gates, radius)
    assert far.float().mean() >= 0.2  # otherwise the test would prove little
    image, twin = (part.view(torch.int32) for part in (batch.images, batch.normals))
    changed = (image != twin).any(dim=1, keepdim=True)
    assert not (changed & far).any()
    assert (changed & gates).sum() > 0.99 * gates.sum()
    # The reach is real: pixels beside the gates change as well.
    assert (changed & ~gates).any()


@pytest.mark.parametrize("head", ["blob", "real"])
def test_nothing_is_drawn_outside_the_final_mask_by_default(networks, draw, head):
    network, branch = networks()
    assert branch.config.contained  # the default
    if head == "blob":
        branch.first.to_mask = Blob()
    else:
        local_head(network, branch)
    batch, hook = draw(network, branch)
    assert torch.equal(batch.masks, hook.mask)
    assert batch.masks.any(dim=(1, 2, 3)).sum() > 1
    assert not (union_of_gates(hook) & ~batch.masks).any()
    # The published gates do leave it: cells of the start resolution stick out.
    published = DefectBranch(network.config, DefectConfig(first_resolution=16, contained=False))
    published.first.to_mask = branch.first.to_mask
    published.load_state_dict(branch.state_dict())
    _, open_hook = draw(network, published)
    assert torch.equal(open_hook.mask, hook.mask)
    assert (union_of_gates(open_hook) & ~hook.mask).any()


def test_without_defect_the_twin_is_the_image(networks, draw):
    network, branch = networks()
    branch.first.to_mask.bias.fill_(-1e6)
    batch, _ = draw(network, branch)
    assert not batch.masks.any()
    assert torch.equal(batch.images, batch.normals)


def test_twins_do_not_depend_on_the_defect(networks, draw):
    network, branch = networks()
    twins = draw(network, branch)[0].normals
    branch.reset(torch.Generator().manual_seed(99))
    assert torch.equal(draw(network, branch)[0].normals, twins)

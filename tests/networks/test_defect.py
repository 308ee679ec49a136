"""The branch inside a forward pass of the backbone: values, gates, gradients, reach."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad

from defectgen.config import DefectConfig, backbone_config, defect_config
from defectgen.losses import generator_logistic
from defectgen.networks.defect import DefectBranch, receptive_radius
from defectgen.networks.discriminator import Discriminator
from defectgen.ops import upsample2d
from defectgen.rng import SampleNoise
from defectgen.training.defect_start import initial_mask_bias

GATES = pytest.mark.parametrize("gate", ["hard", "straight_through"])


class Given(nn.Module):
    """Stands in for the mask head: logits that the test decides."""

    def __init__(self, logits):
        super().__init__()
        self.given = logits

    def forward(self, features, w):
        return self.given


@pytest.fixture
def pair(backbone):
    """pair(resolution, first, **fields of DefectConfig): backbone, branch and both latents."""

    def build(resolution=32, first=8, channels=3, logits=None, **fields):
        g = backbone(resolution, channels)
        branch = DefectBranch(g.config, DefectConfig(first_resolution=first, **fields))
        branch.reset(torch.Generator().manual_seed(5))
        if logits is not None:
            branch.first.to_mask = Given(logits)
        source = torch.Generator().manual_seed(6)
        z = torch.randn(2, 2, 16, generator=source)
        ws = g.broadcast(g.mapping(z[0])).detach()
        return g, branch, ws, branch.broadcast(branch.mapping(z[1])).detach()

    return build


NOISE = SampleNoise([7, 8])


def render(g, branch, ws, defects, imposed=None):
    hook = branch.start(defects, NOISE, imposed)
    return g.synthesis(ws, NOISE, hook), hook


@pytest.mark.parametrize("first", [8, 16, 32])
def test_logits_alone_are_those_of_the_whole_render(pair, first):
    g, branch, ws, defects = pair(first=first)
    x_in = g.synthesis.entering(first, ws, NOISE)
    alone = branch.final_logits(x_in, defects, NOISE)
    assert torch.equal(alone, render(g, branch, ws, defects)[1].final_logits)


# -- shape ---


def test_at_512_px_the_top_block_learns_like_the_others(backbone):
    g = backbone(512, channel_base=1024)
    branch = DefectBranch(g.config, DefectConfig(first_resolution=128))
    branch.reset(torch.Generator().manual_seed(5))
    ws, defects = g.broadcast(torch.ones(2, 12)), branch.broadcast(torch.ones(2, 12))
    assert branch.resolutions == (128, 256, 512)
    everywhere = torch.ones(2, 1, 512, 512, dtype=torch.bool)
    render(g, branch, ws, defects, everywhere)[0].square().sum().backward()
    blocks = [branch.block(r) for r in branch.resolutions]
    for block in blocks:
        for layer in (block.conv0, block.conv1):
            assert float(layer.weight.grad.abs().sum()) > 0


def test_half_precision_is_for_accelerators_only(backbone):
    images = []
    for half in (0, 2):
        g = backbone(32, half_resolutions=half)
        branch = DefectBranch(g.config, DefectConfig(first_resolution=8))
        branch.reset(torch.Generator().manual_seed(5))
        ws, defects = g.broadcast(torch.ones(2, 12)), branch.broadcast(torch.ones(2, 12))
        images.append(render(g, branch, ws, defects)[0])
    assert images[0].dtype == torch.float32
    assert torch.equal(*images)


def test_published_branch_has_3_669_703_parameters():
    config = backbone_config(256, 3, "dfmgan")
    with torch.device("meta"):
        branch = DefectBranch(config, defect_config(config, "dfmgan"))
    assert sum(p.numel() for p in branch.parameters()) == 3_669_703
    assert sum(p.numel() for p in branch.mapping.parameters()) == 525_312
    assert branch.resolutions == (64, 128, 256)
    shapes = [tuple(branch.block(r).conv0.weight.shape[:2]) for r in branch.resolutions]
    assert shapes == [(256, 512), (128, 256), (64, 128)]
    assert [r for r in branch.resolutions if branch.block(r).to_mask is not None] == [64]


@GATES
@pytest.mark.parametrize("contained", [False, True])
@pytest.mark.parametrize(
    ("resolution", "first", "channels"), [(32, 8, 3), (64, 16, 1), (32, 32, 3), (64, 8, 3)]
)
def test_smoke(pair, resolution, first, channels, gate, contained):
    g, *rest = pair(resolution, first, channels, gate=gate, contained=contained)
    image, hook = render(g, *rest)
    assert image.shape == (2, channels, resolution, resolution)
    assert torch.isfinite(image).all()
    assert hook.logits.shape == (2, 1, first, first)
    assert hook.final_logits.shape == hook.mask.shape == (2, 1, resolution, resolution)
    assert hook.mask.dtype == torch.bool
    assert torch.equal(hook.mask, hook.final_logits >= 0)
    assert {r: tuple(m.shape) for r, m in hook.gates.items()} == {
        r: (2, 1, r, r) for r in (8, 16, 32, 64) if first <= r <= resolution
    }


def test_every_layer_reads_its_own_slot_and_noise(pair, record):
    g, branch, ws, _ = pair(32, 8)
    seen, asked = record(branch), []

    def noise(layer, batch, resolution):
        asked.append((layer, resolution))

    assert branch.num_ws == 6
    slots = torch.arange(6.0)[None, :, None].expand(2, -1, 12)  # slot k holds the number k
    g.synthesis(ws, SampleNoise([0, 1]), branch.start(slots, noise))
    found = {
        name.removeprefix("blocks."): float(inputs[1][0, 0].detach())
        for name, (inputs, _) in seen.items()
    }
    assert found == {
        "8.conv0": 0, "8.conv1": 1, "8.to_mask": 2,
        "16.conv0": 2, "16.conv1": 3,
        "32.conv0": 4, "32.conv1": 5,
    }  # fmt: skip
    sizes = {"defect8": 8, "defect16": 16, "defect32": 32}
    assert asked == [(f"{n}.{c}", r) for n, r in sizes.items() for c in ("conv0", "conv1")]


@pytest.mark.parametrize("contained", [False, True])
def test_features_follow_the_three_equations(pair, contained):
    """F_r = B_r(F_{r/2}) + H_r(F_{r/2}) * gate, step by step on the side of the backbone."""
    g, branch, ws, defects = pair(32, 8, contained=contained)
    image, hook = render(g, branch, ws, defects)
    x, total, m, blocks = None, None, None, g.synthesis.blocks
    for k, r in enumerate((4, 8, 16, 32)):
        y = blocks[str(r)].features(x, ws[:, max(0, 2 * k - 1) :], NOISE)
        if r >= 8:
            block, slot = branch.block(r), 2 * (k - 1)
            h = block.conv0(x, defects[:, slot], NOISE)
            h = block.conv1(h, defects[:, slot + 1], NOISE)
            m = block.to_mask(h, defects[:, 2]) if m is None else upsample2d(m)
            gate = m >= 0
            if contained:  # every image pixel of the cell is in the final mask
                gate &= F.avg_pool2d(hook.mask.float(), 32 // r) == 1
            assert torch.equal(hook.gates[r], gate)
            y = y + h * gate
        rgb = blocks[str(r)].to_rgb(y, ws[:, 2 * k + 1])
        total = rgb if total is None else upsample2d(total) + rgb
        x = y
    torch.testing.assert_close(image, total, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hook.final_logits, m)
    assert hook.mask.any()
    assert not hook.mask.all()


# -- gates ---


@GATES
@pytest.mark.parametrize("contained", [False, True])
@pytest.mark.parametrize("resolution", [32, 64])
def test_with_no_gate_open_the_image_is_the_backbones_bit_for_bit(
    pair, resolution, gate, contained
):
    first = resolution // 4
    closed = torch.full((2, 1, first, first), -1e-3)
    g, *rest = pair(resolution, first, logits=closed, gate=gate, contained=contained)
    image, hook = render(g, *rest)
    assert torch.equal(image, g.synthesis(rest[1], NOISE))
    assert not hook.mask.any()
    opened = render(g, *pair(resolution, first, logits=-closed)[1:])[0]
    assert not torch.allclose(opened, image)  # the blocks themselves are not silent


@GATES
def test_contained_gates_lie_in_the_final_mask(pair, normal, gate):
    logits = normal(2, 1, 8, 8)
    published = render(*pair(32, 8, logits=logits, gate=gate, contained=False))[1]
    ours = render(*pair(32, 8, logits=logits, gate=gate, contained=True))[1]
    assert torch.equal(ours.mask, published.mask)

    def outside(hook):
        large = {r: F.interpolate(m.float(), 32).bool() for r, m in hook.gates.items()}
        return {r: int((m & ~hook.mask).sum()) for r, m in large.items()}

    assert outside(ours) == {8: 0, 16: 0, 32: 0}
    assert outside(published)[8] > 0  # without the rule the cells of 4 px stick out
    assert all((m <= published.gates[r]).all() for r, m in ours.gates.items())
    assert ours.gates[8].any()


def test_an_imposed_mask_rules_all_gates(pair, normal):
    imposed = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    imposed[0, 0, 5:20, 8:25] = True
    g, *rest = pair(32, 8, contained=False, logits=-normal(2, 1, 8, 8).abs())
    image, hook = render(g, *rest, imposed)
    assert torch.equal(hook.mask, imposed)
    for r, gate in hook.gates.items():
        wanted = F.avg_pool2d(imposed.float(), 32 // r) == 1
        assert torch.equal(gate, wanted)
        assert gate.any()
    assert hook.logits.max() < 0  # the prediction is still there to be supervised
    same = (image == g.synthesis(rest[1], NOISE)).flatten(1).all(dim=1)
    assert same.tolist() == [False, True]


# -- gradients ---


def test_hard_gate_image_gives_no_gradient_to_the_logits(pair, normal):
    logits = normal(2, 1, 8, 8).requires_grad_()
    image, hook = render(*pair(32, 8, logits=logits, gate="hard"))
    assert grad(image.square().sum(), logits, allow_unused=True, retain_graph=True) == (None,)
    assert grad(hook.final_logits.sum(), logits)[0].abs().min() > 0
    g, branch, *rest = pair(32, 8, gate="hard")
    render(g, branch, *rest)[0].square().sum().backward()
    assert branch.first.to_mask.weight.grad is None  # nor to the head that makes them
    assert branch.block(32).conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("sign", [-1, 1])
def test_straight_through_image_gives_gradient_to_open_and_closed_logits(pair, sign):
    logits = torch.full((2, 1, 8, 8), 0.1 * sign, requires_grad=True)
    g, *rest = pair(32, 8, logits=logits, gate="straight_through", contained=False)
    image, _ = render(g, *rest)
    assert grad(image.square().sum(), logits)[0].abs().min() > 0


@pytest.mark.parametrize("steepness", [2.0, 10.0])
def test_matching_loss_reaches_logits_near_zero_and_not_saturated_ones(pair, normal, steepness):
    base = 0.02 * normal(2, 1, 8, 8)
    base[1] = 40.0
    logits = base.requires_grad_()
    image, hook = render(*pair(32, 8, logits=logits, gate="hard"))
    judge = Discriminator(32, 4, channel_base=256, channel_max=8)
    judge.reset(torch.Generator().manual_seed(0))
    mask = torch.tanh(steepness * hook.final_logits)
    loss = generator_logistic(judge(torch.cat([image, mask], dim=1)))
    (slope,) = grad(loss, logits)
    assert slope[0].abs().min() > 0
    assert slope[1].abs().max() == 0  # exactly: tanh is 1 there


def test_imposed_gates_let_the_residual_learn(pair):
    imposed = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    imposed[:, :, :16] = True
    g, branch, *rest = pair(32, 8)
    render(g, branch, *rest, imposed)[0].square().sum().backward()
    silent = [k for k, p in branch.named_parameters() if p.grad is None or not p.grad.any()]
    assert [k for k in silent if not k.startswith("mapping.")] == [
        f"blocks.8.to_mask.{k}" for k in ("weight", "bias", "affine.weight", "affine.bias")
    ]


# -- reach ---


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_reach_of_a_quarter_is_nine_pixels(resolution):
    assert receptive_radius(resolution // 4, resolution) == 9


@pytest.mark.parametrize(
    ("resolution", "first", "radius"), [(64, 16, 9), (32, 8, 9), (32, 16, 3), (32, 32, 0)]
)
def test_measured_reach_is_the_computed_one(pair, resolution, first, radius):
    assert receptive_radius(first, resolution) == radius
    cell = resolution // first
    # In double precision nothing is rounded away, and no fast algorithm mixes neighbors.
    g, branch, ws, defects = (part.double() for part in pair(resolution, first))
    imposed = torch.zeros(2, 1, resolution, resolution, dtype=torch.bool)
    middle = resolution // 2
    imposed[:, :, middle : middle + cell, middle : middle + 2 * cell] = True
    image, hook = render(g, branch, ws, defects, imposed)
    assert all(gate.any() for gate in hook.gates.values())
    changed = (image != g.synthesis(ws, NOISE)).any(dim=1, keepdim=True)

    def dilated(by):
        return F.max_pool2d(imposed.double(), 2 * by + 1, stride=1, padding=by) > 0

    assert not (changed & ~dilated(radius)).any()
    if radius:
        assert (changed & ~dilated(radius - 1)).any()
    else:
        assert torch.equal(changed, imposed)


# -- start of the mask head ---


@pytest.mark.parametrize("area", [0.02, 0.1, 0.4])
def test_initial_bias_opens_the_asked_share(pair, area):
    g, branch, ws, defects = pair(64, 16)
    before = render(g, branch, ws, defects)[1].logits
    offset = initial_mask_bias(branch, before, area)
    assert float(branch.first.to_mask.bias.detach()) == pytest.approx(offset)  # it was zero
    after = render(g, branch, ws, defects)[1].logits
    torch.testing.assert_close(after, before + offset, rtol=1e-4, atol=1e-4)
    assert float((after >= 0).float().mean()) == pytest.approx(area, abs=0.01)


@pytest.mark.parametrize(("area", "taken"), [(0.0, 1e-4), (0.9, 0.5)])
def test_initial_bias_limits_extreme_areas(pair, normal, area, taken):
    logits = normal(2, 1, 64, 64)
    offset = initial_mask_bias(pair()[1], logits, area)
    assert offset == pytest.approx(-float(torch.quantile(logits, 1 - taken)))


def test_initial_bias_ignores_logits_that_are_not_finite(pair):
    branch = pair()[1]
    assert initial_mask_bias(branch, torch.full((1, 1, 8, 8), float("nan")), 0.1) == 0.0
    assert torch.isfinite(branch.first.to_mask.bias).all()

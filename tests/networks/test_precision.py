from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from defectgen import Backbone, DefectSynthesizer
from defectgen.config import BackboneConfig
from defectgen.errors import ConfigError
from defectgen.estimator import run_precision
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.layers import constant_weights
from defectgen.networks.precision import in_precision, resolve_precision
from defectgen.networks.synthesis import Generator
from defectgen.ops import use_kernels
from defectgen.rng import SampleNoise, generator

SEEDS = (3, 4)


@pytest.fixture
def network():
    config = BackboneConfig(
        resolution=32, z_dim=8, w_dim=16, channel_base=512, channel_max=32, clamp=256.0
    )
    result = Generator(config)
    result.reset(generator(0, "test"))
    return result


def image(network, dtype=torch.float32):
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        return network(z, SampleNoise(SEEDS))


def psnr(got, wanted):
    """Peak signal to noise ratio of images in [-1, 1], after clamping, in decibel."""
    error = (got.clamp(-1, 1) - wanted.clamp(-1, 1)).square().mean()
    return 10 * math.log10(4 / float(error))


def test_low_precision_is_near_and_not_the_same(network):
    wanted = image(network)
    with in_precision("bf16"):
        got = image(network)
    assert got.dtype == torch.float32
    assert not torch.equal(got, wanted)
    assert psnr(got, wanted) > 40
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert torch.equal(image(network), wanted)


def test_features_are_in_the_low_dtype(network):
    seen = []

    def watch(resolution, x_in, x_out):
        seen.append(x_out.dtype)
        return x_out

    with in_precision("bf16"), torch.no_grad():
        ws = torch.zeros(1, network.synthesis.num_ws, 16)
        network.synthesis(ws, SampleNoise((0,)), watch)
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 4


def test_the_block_before_comes_back_also_after_an_error(network):
    wanted = image(network)
    with in_precision("bf16"):
        with in_precision("fp32"):
            assert torch.equal(image(network), wanted)
        with pytest.raises(KeyError), in_precision("fp32"):
            raise KeyError
        assert not torch.equal(image(network), wanted)
    assert torch.equal(image(network), wanted)


def test_double_precision_stays_double(network):
    network = network.double()
    wanted = image(network, torch.float64)
    with in_precision("bf16"):
        assert torch.equal(image(network, torch.float64), wanted)


def test_discriminator_gives_float32_logits():
    network = Discriminator(32, 3, channel_base=256, channel_max=16)
    network.reset(generator(0, "test"))
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted = network(x)
    with in_precision("bf16"):
        got = network(x)
    assert got.dtype == torch.float32
    assert not torch.equal(got, wanted)
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.05)


def test_gradients_reach_every_parameter_in_low_precision(network):
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    grads = {}
    for precision in ("fp32", "bf16"):
        with in_precision(precision):
            loss = network(z, SampleNoise(SEEDS)).square().mean()
            grads[precision] = torch.autograd.grad(loss, list(network.parameters()))
    assert all(low.dtype == torch.float32 for low in grads["bf16"])
    # All together: a single noise strength is a small sum of large terms of both signs.
    low, exact = (torch.cat([g.flatten() for g in grads[p]]) for p in ("bf16", "fp32"))
    assert float((low - exact).norm()) <= 0.03 * float(exact.norm())


def test_an_unknown_precision_is_named_before_any_work(product, defects, fitted_synth):
    refused = pytest.raises(ConfigError, match="^precision: one of auto, fp32, bf16; got 'fp16'")
    with refused:
        Backbone(32, precision="fp16", verbose=0).fit(product(4))
    with refused:
        DefectSynthesizer(fitted_synth.backbone_, precision="fp16").fit(*defects(4))
    wrong = copy.copy(fitted_synth).set_params(precision="fp16")
    with refused:
        wrong.iter_samples(2)  # before the first batch is asked for


def test_threads_compute_in_precisions_of_their_own(fitted_synth):
    wanted = fitted_synth.sample(8, seed=0)
    low = copy.copy(fitted_synth).set_params(precision="bf16")
    low_wanted = low.sample(8, seed=0)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(s.sample, 8, seed=0) for s in (low, fitted_synth) * 6]
        got = [job.result() for job in jobs]
    assert all(torch.equal(x, low_wanted) for x in got[0::2])
    assert all(torch.equal(x, wanted) for x in got[1::2])


@pytest.mark.parametrize(
    ("has", "wanted"),
    [
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "avx512_f": True}, "fp32"),
        (None, "fp32"),
    ],
    ids=["AMX", "AVX512 BF16", "AVX512 alone", "a PyTorch that does not tell"],
)
def test_auto_follows_the_instructions_of_the_cpu(monkeypatch, has, wanted):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if has is not None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == wanted
    assert resolve_precision("auto", torch.device("cuda")) == "fp32"
    for named in ("fp32", "bf16"):
        assert resolve_precision(named, torch.device("cpu")) == named


def test_auto_is_decided_before_training_and_recorded(tiny, product, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    backbone = Backbone(
        32, kimg=0.016, batch_size=4, seed=0, precision="auto", augment="none", verbose=0
    ).fit(product(8))
    assert backbone.config_["training"]["precision"] == "bf16"
    drawn = backbone.sample(2, seed=0)
    assert torch.equal(drawn, backbone.set_params(precision="bf16").sample(2, seed=0))
    assert not torch.equal(drawn, backbone.set_params(precision="fp32").sample(2, seed=0))


def test_auto_goes_on_as_the_run_began_wherever_it_is_resumed(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {}, raising=False)
    resumed = {"state": {"config": {"precision": "bf16"}}}
    cpu = torch.device("cpu")
    assert run_precision("auto", cpu, resumed) == "bf16"
    assert run_precision("auto", cpu, None) == "fp32"
    assert run_precision("fp32", cpu, resumed) == "fp32"


def test_sampling_in_low_precision_leaves_the_object_as_it_was(fitted_synth):
    exact, masks = fitted_synth.sample(4, seed=0, return_masks=True)
    fitted_synth.set_params(precision="bf16")
    try:
        low, low_masks = fitted_synth.sample(4, seed=0, return_masks=True)
    finally:
        fitted_synth.set_params(precision="fp32")
    assert not torch.equal(low, exact)
    # Where both drew the defect, the pictures agree; a few gates lie on the edge of the step.
    same = (masks == low_masks).float().mean()
    assert same > 0.95
    again, _ = fitted_synth.sample(4, seed=0, return_masks=True)
    assert torch.equal(again, exact)


def test_training_in_low_precision_is_recorded(tiny, product):
    backbone = Backbone(
        32, kimg=0.016, batch_size=4, seed=0, precision="bf16", augment="none", verbose=0
    ).fit(product(8))
    assert backbone.config_["training"]["precision"] == "bf16"
    assert all(math.isfinite(record["loss/reconstruction"]) for record in backbone.history_)


# -- constant weights ------------------------------------------------------------------------------


def test_constant_weights_change_nothing(network):
    wanted = image(network)
    with constant_weights(network):
        assert torch.equal(image(network), wanted)
        assert torch.equal(image(network), wanted)
    assert all(getattr(m, "kept", None) is None for m in network.modules())


def test_a_weight_that_changes_between_two_passes_is_noticed(network):
    with constant_weights(network):
        before = image(network)
        with torch.no_grad():
            network.synthesis.block(8).conv0.weight.mul_(-1)
        changed = image(network)
    assert not torch.equal(changed, before)
    assert torch.equal(image(network), changed)


def test_other_storage_under_a_weight_is_noticed_and_the_old_one_forgotten(network):
    layer = network.synthesis.block(8).conv0
    with constant_weights(network):
        before = image(network)
        layer.weight.data = layer.weight.data * -1
        assert not torch.equal(image(network), before)
        assert len(layer.kept) == 1


def test_inference_mode_loads_and_samples(network):
    wanted = image(network)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        fresh = Generator(network.config)
        fresh.load_state_dict(state)
        with constant_weights(fresh):
            assert torch.equal(image(fresh), wanted)


def test_one_graph_in_low_precision(network):
    ws = torch.zeros(2, network.synthesis.num_ws, 16)
    planes = SampleNoise(SEEDS)
    noise = {
        (n, r): planes(n, 2, r) for r in (4, 8, 16, 32) for n in (f"b{r}.conv0", f"b{r}.conv1")
    }
    compiled = torch.compile(network.synthesis, backend="eager", fullgraph=True)
    with torch.no_grad(), use_kernels("reference"), in_precision("bf16"):
        wanted = network.synthesis(ws, lambda layer, n, r: noise[layer, r])
        assert torch.equal(compiled(ws, lambda layer, n, r: noise[layer, r]), wanted)
    with torch.no_grad(), use_kernels("reference"):
        assert not torch.equal(compiled(ws, lambda layer, n, r: noise[layer, r]), wanted)


def test_passes_with_a_graph_do_not_use_kept_weights(network):
    with constant_weights(network):
        image(network)
        z = torch.ones(1, 8)
        loss = network(z, SampleNoise((0,))).sum()
        (gradient,) = torch.autograd.grad(loss, network.synthesis.block(8).conv0.weight)
    assert float(gradient.abs().sum()) > 0

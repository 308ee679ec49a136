"""The baseline of the benchmarks computes what our networks compute."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import defectgen

ROOT = Path(defectgen.__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks lie in the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.cases import Case, Size  # noqa: E402
from benchmarks.measure import flop  # noqa: E402
from benchmarks.table import NONE, render, size_lines, verdict  # noqa: E402
from defectgen import losses  # noqa: E402
from defectgen.rng import GeneratorNoise  # noqa: E402


class Tiny(Size):
    """A small stand-in for the sizes that are measured."""

    @property
    def config(self):
        return defectgen.config.BackboneConfig(
            resolution=32,
            z_dim=8,
            w_dim=16,
            channel_base=256,
            channel_max=16,
            clamp=256.0,
            base_components=4,
        )


@pytest.fixture(scope="module")
def both():
    """(textbook, ours) with equal weights and noise, in double precision for exact comparison."""
    cases = [Case(Tiny("tiny", 32, None, 3), textbook=book) for book in (True, False)]
    source = torch.Generator().manual_seed(1)
    for networks in zip(*(case.networks for case in cases), strict=True):
        for mine, other in zip(*(n.parameters() for n in networks), strict=True):
            values = mine + 0.1 * torch.randn(mine.shape, generator=source)
            mine.data, other.data = values.double(), values.double().clone()
        for network in networks:
            network.double()
    return cases


def noise():
    return GeneratorNoise(torch.Generator().manual_seed(5))


class DoubleNoise:
    """Noise planes as double numbers."""

    def __init__(self):
        self.source = noise()

    def __call__(self, *arguments):
        return self.source(*arguments).double()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)).double()


@pytest.mark.parametrize("graph", [True, False])
def test_images_and_masks_are_the_same(both, graph):
    found = []
    for case in both:
        with torch.set_grad_enabled(graph):
            z = draw(3, 8)
            hook = case.branch.start(case.branch.broadcast(case.branch.mapping(z)), DoubleNoise())
            ws = case.network.broadcast(case.network.mapping(z))
            image = case.network.synthesis(ws, DoubleNoise(), hook)
        found.append((image, hook.logits, hook.final_logits))
    for book, ours in zip(*found, strict=True):
        torch.testing.assert_close(book, ours, rtol=1e-9, atol=1e-9)


def test_logits_penalties_and_their_gradients_are_the_same(both):
    found = []
    for case in both:
        judge = case.networks[1].requires_grad_(True)
        x = draw(3, 3, 32, 32).requires_grad_()
        logits = judge(x)
        loss = losses.r1_penalty(logits, x, 1.0) + logits.square().mean()
        found.append((logits, loss, *torch.autograd.grad(loss, list(judge.parameters()))))
        judge.requires_grad_(False)
    for book, ours in zip(*found, strict=True):
        torch.testing.assert_close(book, ours, rtol=1e-8, atol=1e-8)


def test_path_lengths_and_their_gradients_are_the_same(both):
    found = []
    for case in both:
        synthesis = case.network.synthesis.requires_grad_(True)
        ws = case.network.broadcast(draw(2, 16)).clone().requires_grad_()
        image = synthesis(ws, DoubleNoise())
        lengths = losses.path_lengths(image, ws, draw(*image.shape))
        # Biases behind the last activation change no length.
        gradients = torch.autograd.grad(
            lengths.sum(), list(synthesis.parameters()), materialize_grads=True
        )
        found.append((lengths, *gradients))
        synthesis.requires_grad_(False)
    for book, ours in zip(*found, strict=True):
        torch.testing.assert_close(book, ours, rtol=1e-7, atol=1e-8)


def test_the_baseline_runs_every_phase_in_contiguous_nchw():
    case = Case(Tiny("tiny", 32, None, 2), textbook=True)
    seen = []
    for module in case.networks[1].modules():
        if isinstance(module, torch.nn.Module) and hasattr(module, "weight"):
            module.register_forward_hook(lambda m, a, out: seen.append(out.is_contiguous()))
    for stage in ("backbone", "defect"):
        for _, step in case.phases(stage).values():
            step()
    assert seen
    assert all(seen)


def test_depthwise_filters_are_not_counted():
    x, weight = torch.randn(2, 8, 6, 6), torch.randn(5, 8, 3, 3)
    dense = 2 * 2 * 36 * 5 * 8 * 9 / 1e9
    conv = torch.nn.functional.conv2d
    assert flop(lambda: conv(x, weight, padding=1)) == pytest.approx(dense)
    assert flop(lambda: conv(x, torch.randn(8, 1, 3, 3), padding=1, groups=8)) == 0
    # Weights of each sample's own are the networks' work, one group per sample or not.
    own = torch.randn(len(x) * 5, 8, 3, 3)
    grouped = flop(lambda: conv(x.flatten(0, 1)[None], own, padding=1, groups=len(x)))
    assert grouped == pytest.approx(dense)
    leaf = weight.clone().requires_grad_()
    both = flop(lambda: conv(x, leaf, padding=1).sum().backward())
    assert both == pytest.approx(2 * dense)  # forward, and the gradient of the weights alone


def test_verdicts():
    assert verdict(1.9, 2.0) == "FAIL"
    assert verdict(2.0, 2.0, 3.0) == "pass"
    assert verdict(3.0, 2.0, 3.0) == "stretch"
    assert verdict(0.5, 1.0, above=False) == "pass"
    assert verdict(1.5, 1.0, above=False) == "FAIL"
    raw = {
        "commit": "abc",
        "machine": {"cpu": "none", "threads": 1, "torch": "2"},
        "rates": {"fp32": 1.0, "bf16": 2.0},
    }
    line = {"work": "w", "target": "t", "measured": "m", "verdict": "pass"}
    assert render([line], raw).splitlines()[-1] == "| w | t | m | pass |"


@pytest.mark.parametrize("precisions", [("fp32",), ("fp32", "bf16")])
def test_lines_of_a_precision_that_was_not_measured_say_so(precisions):
    spent = {"textbook": 4.0, "kept": 3.0, "fp32": 2.0, "bf16": 1.0}
    spent = {k: v for k, v in spent.items() if k in ("textbook", "kept", *precisions)}
    work = {"seconds": spent, "gflop": 1.0}
    pictures = {"difference_fp32": 0.0, **({"psnr_bf16": 41.0} if "bf16" in precisions else {})}
    found = {"gflop": 1.0, "sampling": work | pictures, "backbone": work, "defect": work}
    lines = size_lines("256 px", found, dict.fromkeys(precisions, 1.0))
    missing = [line["work"] for line in lines if line["verdict"] == NONE["verdict"]]
    assert len(lines) == len({line["work"] for line in lines}) == 13
    assert len(missing) == (0 if "bf16" in precisions else 5)
    assert all("bf16" in work for work in missing)
    ratio = next(x for x in lines if x["work"] == "256 px: defect training iteration, fp32")
    assert ratio["measured"].startswith("2.00x, 1.50x with kept memory; 2000.0 ms, 50% of the fp32")

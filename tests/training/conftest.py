"""A run so small that every number of it can be computed by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from defectgen.augment.pipe import AdaptiveProbability
from defectgen.config import TrainConfig
from defectgen.training.phases import Batch, Phase
from defectgen.training.state import TrainState


class Net(nn.Module):
    """y = <weight, x>, with a buffer as running statistics."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.register_buffer("seen", torch.zeros(()))


@pytest.fixture
def numbers():
    """numbers(**fields): a TrainConfig of 40 images in batches of 4."""
    whole = TrainConfig(kimg=0.04, warm_kimg=0.0, batch_size=4, seed=0, r1_gamma=1.0, ema_kimg=0.01)
    return lambda **fields: replace(whole, **fields)


@pytest.fixture
def make_state(numbers):
    """make_state(adam=False, **fields of TrainConfig): TrainState of one Net."""

    def build(*, adam=False, **fields):
        config = numbers(**fields)
        net = Net()
        average = copy.deepcopy(net)
        for module in (net, average):
            module.requires_grad_(False)
        kind = torch.optim.Adam if adam else torch.optim.SGD
        return TrainState(
            config,
            {"net": net},
            {"net": average},
            {"opt": kind(net.parameters(), lr=0.125)},
            AdaptiveProbability(target=0.0, ada_kimg=0.1, cap=config.ada_cap),
            torch.Generator().manual_seed(7),
        )

    return build


@pytest.fixture
def linear_phase():
    """linear_phase(state, **fields): loss = sum(weight), whose gradient is one everywhere.

    Logs the loss, touches the buffer and the generator, feeds ADA. ``calls`` of the phase's loss
    holds (iteration, images) of every call; ``before(loss)`` may replace the loss.
    """

    def build(state, *, before=lambda loss: loss, **fields):
        calls = []

        def loss(batch):
            calls.append((state.iteration, state.images))
            net = state.modules["net"]
            net.seen += 1
            noise = torch.randn((), generator=state.generator)
            state.ada.accumulate(torch.ones(4))
            value = before(net.weight.sum())
            return value, {"loss/net": value, "noise": noise}

        loss.calls = calls
        return Phase(**{"name": "net", "optimizers": ("opt",), "loss": loss, **fields})

    return build


@pytest.fixture
def batches():
    """batches(iteration): an empty picture; ``batches.asked`` lists the iterations."""
    asked = []

    def give(iteration):
        asked.append(iteration)
        return Batch(torch.zeros(4, 3, 2, 2), torch.arange(4))

    give.asked = asked
    return give


def difference(a, b, where=""):
    """First place at which two nested states differ in a bit, or None."""
    if type(a) is not type(b) and not (isinstance(a, dict) and isinstance(b, dict)):
        return f"{where}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype
        return None if same and a.numpy().tobytes() == b.numpy().tobytes() else where
    if isinstance(a, dict):
        if list(a) != list(b):
            return f"{where}: keys"
        found = (difference(a[key], b[key], f"{where}/{key}") for key in a)
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{where}: length"
        found = (difference(*pair, f"{where}/{k}") for k, pair in enumerate(zip(a, b, strict=True)))
    else:
        return None if a == b else f"{where}: {a!r} and {b!r}"
    return next((place for place in found if place is not None), None)


@pytest.fixture
def assert_same():
    """assert_same(a, b): two nested states are equal bit for bit."""

    def check(a, b):
        assert difference(a, b) is None

    # The comparison itself must be able to fail.
    assert difference({"x": [torch.zeros(2)]}, {"x": [torch.tensor([0.0, -0.0])]}) == "/x/0"
    assert difference({"x": 1}, {"x": 1, "y": 2}) == ": keys"
    assert difference({"p": 0.1}, {"p": 0.1 + 1e-18}) is None
    assert difference({"p": 0.1}, {"p": 0.1 + 1e-16}) is not None
    return check

"""What rewrites a function: torch.compile takes every op into one graph; torch.func works."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import grad

from defectgen.ops import bias_act, masked_add, modulated_conv2d, upfirdn2d, upsample2d
from defectgen.ops._library import remembered

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8

#: Function, shapes of its tensors after the features x (2, 3, 8, 8).
FUNCTIONS = {
    "bias_act": (
        lambda x, b, s, n: bias_act(x, b, scale=s, noise=n, act="lrelu", clamp=1.5),
        [(3,), (2, 3), (2, 1, 8, 8)],
    ),
    "upfirdn2d": (lambda x: upfirdn2d(x, TAPS.to(x.device), up=2, pad=(2, 1, 2, 1)), []),
    "masked_add, hard": (masked_add, [(2, 3, 8, 8), (2, 1, 4, 4)]),
    "masked_add, straight through": (
        lambda x, r, m: masked_add(x, r, m, mode="straight_through"),
        [(2, 3, 8, 8), (2, 1, 4, 4)],
    ),
    "modulated_conv2d": (
        lambda x, w, s: modulated_conv2d(x, w, s, up=2),
        [(5, 3, 3, 3), (2, 3)],
    ),
}


@pytest.fixture
def afresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_graph_forward_and_backward(fused, afresh, normal, device, name):
    function, shapes = FUNCTIONS[name]
    inputs = [normal(*s, dtype=torch.float32).to(device) for s in [(2, 3, 8, 8), *shapes]]
    leaves = [t.requires_grad_() for t in inputs]
    options = {"allow_unused": True, "materialize_grads": True}
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=False)
    results = []
    for call in (compiled, function):  # the other one must find nothing that tracing left behind
        y = call(*leaves)
        results.append([y, *grad(y.square().sum(), leaves, **options)])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
@pytest.mark.parametrize("name", ["bias_act", "upfirdn2d", "masked_add, hard", "modulated_conv2d"])
def test_transforms_of_functions(fused, normal, device, name):
    function, shapes = FUNCTIONS[name]
    inputs = [normal(*s).to(device) for s in [(2, 3, 8, 8), *shapes]]
    turns = [normal(*t.shape).to(device) for t in inputs]

    def total(*given):
        return function(*given).square().sum()

    leaves = [t.clone().requires_grad_() for t in inputs]
    wanted = grad(total(*leaves), leaves, allow_unused=True, materialize_grads=True)
    got = torch.func.grad(total, argnums=tuple(range(len(inputs))))(*inputs)
    torch.testing.assert_close(got, wanted)
    _, slope = torch.func.jvp(total, tuple(inputs), tuple(turns))
    along = sum((g * t).sum() for g, t in zip(wanted, turns, strict=True))
    torch.testing.assert_close(slope, along)


@pytest.mark.parametrize("traced", ["fake tensors", "a gradient transform", "another device"])
def test_what_was_made_while_tracing_is_not_used_afterwards(traced, monkeypatch):
    # The modules, which functions of the same names hide.
    gates = importlib.import_module("defectgen.ops.masked_add")
    filters = importlib.import_module("defectgen.ops.upfirdn2d")
    for module, names in ((filters, ["binomial_filter"]), (gates, ["_table", "_upsampling"])):
        for name in names:  # as if nothing had been called before
            monkeypatch.setattr(module, name, remembered(getattr(module, name).__wrapped__))
    x, logits = torch.ones(1, 2, 8, 8), torch.ones(1, 1, 4, 4)

    def calls(x, logits):
        return masked_add(x, x, logits).sum() + upsample2d(x).sum()

    if traced == "fake tensors":
        with FakeTensorMode() as mode:
            calls(mode.from_tensor(x), mode.from_tensor(logits))
    elif traced == "a gradient transform":
        torch.func.grad(calls)(x, logits)
    else:
        with torch.device("meta"):
            calls(x, logits)
    assert float(calls(x, logits)) > 0

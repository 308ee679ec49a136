from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from defectgen.errors import ConfigError
from defectgen.ops import bias_act
from defectgen.ops._library import rounded

pytestmark = pytest.mark.usefixtures("kernels")


def by_hand(x, bias=None, scale=None, noise=None, act="linear", gain=None, clamp=None, post=None):
    """The equation, number by number."""
    out = np.empty(tuple(x.shape))
    for place in np.ndindex(*x.shape):
        n, c, *rest = place
        value = float(x[place])
        if scale is not None:
            value *= float(scale[n, c])
        if noise is not None:
            value += float(noise[(n, 0, *rest)])
        if bias is not None:
            value += float(bias[c])
        if act == "lrelu" and value < 0:
            value *= 0.2
        value *= gain if gain is not None else {"linear": 1, "lrelu": math.sqrt(2)}[act]
        value = value if clamp is None else min(max(value, -clamp), clamp)
        out[place] = value if post is None else value * float(post[n, c])
    return out


def test_smoke():
    x = torch.tensor([[-1.0, 2.0]])
    y = bias_act(x, torch.tensor([0.0, 1.0]), act="lrelu", gain=1.0)
    assert y.tolist() == [[pytest.approx(-0.2), 3.0]]


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("bias",),
        ("scale",),
        ("noise",),
        ("bias", "noise"),
        ("bias", "scale", "noise"),
        ("bias", "scale", "noise", "post"),
    ],
)
@pytest.mark.parametrize(("gain", "clamp"), [(None, None), (0.7, 0.9)])
def test_values_are_those_of_the_equation(normal, same, graph, act, parts, gain, clamp):
    x = normal(2, 3, 3, 5)
    every = {"bias": normal(3), "scale": normal(2, 3), "noise": normal(2, 1, 3, 5)}
    every["post"] = normal(2, 3)
    given = {name: every[name] for name in parts}
    before = {name: value.clone() for name, value in {"x": x, **given}.items()}
    with torch.set_grad_enabled(graph):
        y = bias_act(x, **given, act=act, gain=gain, clamp=clamp)
    same(y, by_hand(x, **given, act=act, gain=gain, clamp=clamp))
    # The path without a graph works in place: on its own memory only.
    for name, value in {"x": x, **given}.items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 7), (1, 3, 5, 7), (2, 3, 2, 3, 1), (3, 3, 1, 1)])
def test_any_number_of_dimensions(normal, same, shape):
    x, bias, scale = normal(*shape), normal(3), normal(shape[0], 3)
    noise = normal(shape[0], 1, *shape[2:])
    y = bias_act(x, bias, scale=scale, noise=noise, act="lrelu")
    same(y, by_hand(x, bias, scale, noise, "lrelu"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_that_of_x(normal, same, dtype):
    x = normal(2, 3, 4, 4, dtype=dtype)
    bias, scale, noise = (normal(*s, dtype=torch.float32) for s in [(3,), (2, 3), (2, 1, 4, 4)])
    y = bias_act(x, bias, scale=scale, noise=noise, act="lrelu", clamp=1.0)
    assert y.dtype == dtype
    same(y, by_hand(x, bias, scale, noise, "lrelu", clamp=1.0))


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("parts", [("bias",), ("bias", "scale"), ("bias", "scale", "noise")])
def test_channels_last_goes_in_and_comes_out(normal, graph, parts):
    every = {"bias": normal(3), "scale": normal(2, 3), "noise": normal(2, 1, 5, 4)}
    x, given = normal(2, 3, 5, 4), {name: every[name] for name in parts}
    turned = x.contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(graph):
        y = bias_act(turned, **given, act="lrelu")
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, bias_act(x, **given, act="lrelu"), check_stride=False)


def test_empty_batch():
    y = bias_act(torch.zeros(0, 3, 4, 4), torch.ones(3), scale=torch.zeros(0, 3), act="lrelu")
    assert y.shape == (0, 3, 4, 4)


def test_leaky_relu_keeps_the_second_moment(normal):
    y = bias_act(normal(8, 4, 64, 64), act="lrelu")
    assert float(y.square().mean()) == pytest.approx(1.04, abs=0.02)  # (1 + 0.2^2) / 2 * 2


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize("clamp", [None, 1.3])
def test_gradients_to_all_inputs(normal, check, act, clamp):
    shapes = [(2, 3, 2, 3), (3,), (2, 3), (2, 1, 2, 3)]
    inputs = [normal(*shape).requires_grad_() for shape in shapes]
    assert check(
        lambda x, b, s, n: bias_act(x, b, scale=s, noise=n, act=act, gain=0.8, clamp=clamp), inputs
    )


@pytest.mark.parametrize("gain", [0.0, -2.0])
def test_a_gain_that_would_not_commute_with_the_activation_is_refused(normal, gain):
    with pytest.raises(ConfigError, match="^gain: positive"):
        bias_act(normal(2, 3, 4), act="lrelu", gain=gain)


def test_no_gradient_beyond_the_clamp():
    x = torch.tensor([[-9.0, 0.5, 9.0]], requires_grad=True)
    bias_act(x, clamp=1.0).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bias", (2,)),
        ("bias", (1, 3)),
        ("scale", (3,)),
        ("scale", (3, 2)),
        ("noise", (2, 3, 4, 4)),
        ("noise", (1, 1, 4, 4)),
        ("noise", (2, 1, 4)),
    ],
)
def test_wrong_shapes_are_named(name, shape):
    with pytest.raises(ConfigError, match=f"^{name}: of shape .*; got .*; reshape it"):
        bias_act(torch.zeros(2, 3, 4, 4), **{name: torch.zeros(shape)})


def test_unknown_activation_is_named():
    with pytest.raises(ConfigError, match="^act: one of linear, lrelu; got 'relu'"):
        bias_act(torch.zeros(1, 1), act="relu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("clamp", [0.7, 0.9, 1.3])
def test_a_limit_that_the_dtype_rounds_still_clamps_the_gradient(dtype, clamp):
    x = torch.tensor([[3.0, -3.0, 0.25]], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(bias_act(x, clamp=clamp).sum(), x)
    assert gradient.tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_limit_is_rounded_as_the_dtype_rounds(dtype):
    for clamp in (0.0, 0.1, 0.7, 1.0, 1.003, 255.9, 256.0, 1e4 / 3):
        assert rounded(clamp, dtype) == float(torch.tensor(clamp, dtype=dtype))


def test_nothing_to_do_is_nothing_done():
    x = torch.ones(1, 2, 3)
    assert bias_act(x, gain=1.0) is x


def test_a_negative_limit_is_refused():
    with pytest.raises(ConfigError, match="^clamp: not negative; got -1.0"):
        bias_act(torch.ones(1, 2), clamp=-1.0)


def test_many_biases_at_once():
    x, biases = torch.ones(2, 3, 4), torch.arange(15.0).reshape(5, 3)
    with torch.no_grad():
        got = torch.vmap(lambda b: bias_act(2 * x, b))(biases)
    assert torch.equal(got, torch.stack([bias_act(2 * x, b) for b in biases]))


def test_a_penalty_may_keep_its_graph(normal):
    """One who differentiates a penalty with create_graph=True takes no third derivative."""
    x, scale = normal(2, 3, 4, 4).requires_grad_(), normal(2, 3).requires_grad_()
    bias = normal(3).requires_grad_()

    def derivatives(function):
        y = function(x, bias, scale)
        first = torch.autograd.grad(y.square().sum(), (x, scale), create_graph=True)
        second = torch.autograd.grad(
            sum(g.square().sum() for g in first), (x, bias, scale), create_graph=True
        )
        third = torch.autograd.grad(sum(g.square().sum() for g in second), (x, bias, scale))
        return *first, *second, *third

    def plain(x, bias, scale):
        u = x * scale[..., None, None] + bias[:, None, None]
        return torch.nn.functional.leaky_relu(u, 0.2) * math.sqrt(2)

    got = derivatives(lambda x, b, s: bias_act(x, b, scale=s, act="lrelu"))
    torch.testing.assert_close(got, derivatives(plain))

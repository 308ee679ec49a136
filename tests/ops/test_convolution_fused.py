"""Native convolutions against their definition in float64, and where they are taken."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from defectgen.ops import _dispatch
from defectgen.ops._convolution import convolution, weight_gradient
from defectgen.ops.convolution import conv2d, conv_transpose2d

#: batch, channels in and out, height, width: no tile, a part of one, odd sides, more than a block,
#: more channels than are held at a time.
SHAPES = [
    *((0, 16, 16, 8, 8), (1, 1, 1, 1, 1), (1, 2, 3, 2, 1), (2, 3, 2, 5, 4), (3, 19, 37, 15, 7)),
    *((2, 16, 16, 14, 16), (1, 33, 16, 1, 40), (2, 100, 5, 6, 9), (1, 5, 200, 9, 6)),
    (5, 17, 18, 35, 33),
]
pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(autouse=True)
def on_the_cpu(device):
    if torch.device(device).type != "cpu":
        pytest.skip("cuDNN chooses its algorithms itself")


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


def definition(x, weight, stride=1):
    """The convolution as a sum of nine shifted products; padded by 1 without a stride."""
    x = F.pad(x, (1, 1, 1, 1)) if stride == 1 else x
    high, wide = (side - 2 for side in x.shape[2:])
    return sum(
        torch.einsum(
            "nihw,oi->nohw",
            x[:, :, i : i + high : stride, j : j + wide : stride],
            weight[:, :, i, j],
        )
        for i in range(3)
        for j in range(3)
    )


def exact(x, weight, dy, stride=1):
    """y, dx, dweight in float64, by the definition."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    y = definition(x, weight, stride)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), dy.double())]


def close(got, wanted, error=5e-6):
    assert got.shape == wanted.shape
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    if wanted.numel():
        size = wanted.abs().max().item()
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=error * size + 1e-30)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("laid", [last, torch.clone], ids=["channels last", "contiguous"])
def test_equals_the_definition(normal, shape, laid):
    n, ins, outs, high, wide = shape
    x, dy = normal(n, ins, high, wide).float(), normal(n, outs, high, wide).float()
    weight = normal(outs, ins, 3, 3).float()
    y, dx, dweight = exact(x, weight, dy)
    x, dy, weight = laid(x), laid(dy), laid(weight)
    for local, error in ((False, 5e-6), (True, 3e-6)):
        close(convolution(x, weight, local=local), y, error)
        close(convolution(dy, weight, True, local=local), dx, error)
    close(weight_gradient(x, dy), dweight)


@pytest.mark.parametrize("place", [(0, 0), (3, 4), (4, 3), (7, 7), (8, 12), (15, 15)])
def test_without_a_graph_no_bit_depends_on_pixels_that_no_tap_reaches(fused, normal, place):
    x, weight = last(normal(1, 16, 16, 16).float()), last(normal(16, 16, 3, 3).float())
    other, (row, column) = x.clone(memory_format=torch.preserve_format), place
    other[..., row, column] += 1
    reached = torch.zeros(16, 16, dtype=torch.bool)
    reached[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
    changed = (conv2d(x, weight, padding=1) != conv2d(other, weight, padding=1)).any(1)[0]
    assert torch.equal(changed, reached)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("more", [0, 1], ids=["all pixels", "pixels that no tap reaches"])
def test_weights_of_a_stride_equal_the_definition(normal, shape, stride, more):
    n, ins, outs, high, wide = shape
    sides = [(side - 1) * stride + 3 for side in (high, wide)]
    x, dy = normal(n, ins, *sides).float(), normal(n, outs, high, wide).float()
    dweight = exact(x, torch.zeros(outs, ins, 3, 3), dy, stride)[2]
    x = F.pad(x, (0, more, 0, more), value=math.nan)
    for laid in (last, torch.clone):
        close(weight_gradient(laid(x), laid(dy), stride), dweight, 3e-6)


def test_at_the_sizes_of_the_networks_it_is_about_as_exact_as_pytorch_and_samples_more(normal):
    for channels, side in ((32, 64), (128, 16)):
        x, dy = (last(normal(8, channels, side, side).float()) for _ in range(2))
        weight = last(normal(channels, channels, 3, 3).float())
        y, dx, dweight = exact(x, weight, dy)
        give = dy, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        theirs = torch.ops.aten.convolution_backward(*give, [True, True, False])
        forward = F.conv2d(x, weight, padding=1)
        pairs = [
            (convolution(x, weight, local=True), forward, y, 1),
            (convolution(dy, weight, True, local=True), theirs[0], dx, 1),
            (convolution(x, weight), forward, y, 3),
            (convolution(dy, weight, True), theirs[0], dx, 3),
            (weight_gradient(x, dy), theirs[1], dweight, 3),
        ]
        for ours, plain, wanted, times in pairs:
            assert (ours - wanted).abs().max() < times * (plain - wanted).abs().max()
            assert (ours - wanted).abs().max() < 5e-6 * wanted.abs().max()


@pytest.mark.parametrize("side", [7, 8, 9])
def test_a_sample_has_the_same_bits_in_any_batch(fused, normal, side):
    """Also where PyTorch's convolution is taken, as for those of 7 px."""
    x, weight = last(normal(5, 17, side, side).float()), last(normal(20, 17, 3, 3).float())
    whole = conv2d(x, weight, padding=1)
    for k in range(5):
        assert torch.equal(conv2d(x[k : k + 1], weight, padding=1), whole[k : k + 1])


def test_same_bits_with_any_number_of_threads(normal):
    x, dy = last(normal(6, 100, 61, 63).float()), last(normal(6, 33, 61, 63).float())
    weight = last(normal(33, 100, 3, 3).float())
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results = (
                convolution(x, weight),
                convolution(dy, weight, True),
                weight_gradient(x, dy),
                weight_gradient(x, dy[:, :, :30, :31], 2),
            )
            found.append(results)
    finally:
        torch.set_num_threads(before)
    for results in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results, found[0], strict=True))
    # Here sums have several parts, and groups of channels.
    for got, wanted in zip(found[0], exact(x, weight, dy), strict=False):
        close(got, wanted)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 7, 8, 30, 31, 40, 41, 80])
def test_what_is_not_finite_stays_so(normal, number, place):
    """Training looks for it."""
    x, weight = torch.ones(1, 16, 9, 9), normal(16, 16, 3, 3).float()
    x[0, 3].view(-1)[place] = number
    x = last(x)
    lost = ~convolution(x, weight).isfinite()
    wanted = ~F.conv2d(x, weight, padding=1).isfinite()
    assert torch.equal(~convolution(x, weight, local=True).isfinite(), wanted)
    assert lost[wanted].all()
    tiles = F.max_pool2d(wanted.float(), 7, stride=1, padding=3) > 0
    assert tiles[lost].all()
    assert not weight_gradient(x, torch.ones(1, 16, 9, 9)).isfinite().all()


def test_wrong_shapes_and_dtypes_are_refused(normal):
    x, weight = normal(1, 4, 4, 4).float(), normal(4, 4, 3, 3).float()
    for given in ((x, weight[:, :3]), (x, weight[:, :, :2]), (x.double(), weight), (x[0], weight)):
        with pytest.raises(RuntimeError, match=r"3x3 weights that fit them; got \("):
            convolution(*given)
    for given in ((x, x[..., :3]), (x, x.double()), (x[:0], x)):
        with pytest.raises(RuntimeError, match="gradients of one size"):
            weight_gradient(*given)
    for given in ((x, x[..., :2]), (x, x[:, :, :1, :1].double()), (x[:0], x[:, :, :1, :1])):
        with pytest.raises(RuntimeError, match="gradients that fit"):
            weight_gradient(*given, 2)


# -- where it is taken -----------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """Names of the convolutions that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if any(word in name for word in ("winograd", "strided_weights", "convolution")):
            self.seen.append(name.partition("::")[2])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("high", [13, 16])
def test_values_and_both_derivatives_of_conv2d(normal, agree, high):
    given = {"x": last(normal(2, 16, high, 16).float()), "weight": normal(18, 16, 3, 3).float()}
    agree(lambda x, weight: conv2d(x, weight, padding=1), given, terms=200, second_terms=200)


def test_the_second_derivative_is_made_of_the_same_maps(fused, normal):
    x = last(normal(2, 16, 16, 16).float()).requires_grad_()
    weight = normal(18, 16, 3, 3).float().requires_grad_()
    with Calls() as calls:
        y = conv2d(x, weight, padding=1)
        first = torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)
        torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight))
    assert calls.seen[:3] == ["winograd", "winograd", "winograd_weights"]
    # The adjoint has two gradients and the weights two more; what comes to y has another two.
    assert sorted(calls.seen[3:]) == [*["winograd"] * 4, *["winograd_weights"] * 2]


CASES = {
    "as in the networks": ({}, True),
    "as many pairs of channels as pay": ({"side": 8, "ins": 512, "outs": 128}, True),
    "the other way round": ({"side": 8, "ins": 128, "outs": 512}, True),
    "few channels": ({"ins": 15}, False),
    "few channels out": ({"outs": 15}, False),
    "few pixels": ({"side": 7, "batch": 20}, False),
    "as few pixels as pay": ({"side": 8, "batch": 1}, True),
    "contiguous": ({"laid": torch.clone}, False),
    "double": ({"dtype": torch.float64}, False),
    "bfloat16": ({"dtype": torch.bfloat16}, False),
    "1x1": ({"kernel": 1, "padding": 0}, False),
    "no padding": ({"padding": 0}, False),
    "stride and padding": ({"stride": 2}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_taken_where_it_pays(normal, case):
    more, wanted = CASES[case]
    given = {"batch": 2, "ins": 16, "outs": 16, "side": 16, "kernel": 3, "dtype": torch.float32}
    given |= {"laid": last, "padding": 1, "stride": 1, **more}
    x = normal(given["batch"], given["ins"], given["side"], given["side"], dtype=given["dtype"])
    x = given["laid"](x).requires_grad_()
    weight = normal(given["outs"], given["ins"], given["kernel"], given["kernel"])
    weight = weight.to(given["dtype"]).requires_grad_()
    with _dispatch.use_kernels("fused"), Calls() as calls:
        y = conv2d(x, weight, padding=given["padding"], stride=given["stride"])
        y.sum().backward()
    taken = ["winograd", "winograd_weights", "winograd"]
    assert calls.seen == (taken if wanted else ["convolution", "convolution_backward"])


@pytest.mark.parametrize("stride", [1, 2])
def test_with_more_pairs_of_channels_only_the_weights(fused, normal, stride):
    """All other maps transform the weights first, which few pixels do not pay."""
    x = last(normal(2, 128, 8 * stride + stride - 1, 9 * stride - 1).float()).requires_grad_()
    weight = normal(577, 128, 3, 3).float().requires_grad_()
    with Calls() as calls:
        conv2d(x, weight, stride=stride, padding=2 - stride).sum().backward()
    taken = "winograd_weights" if stride == 1 else "strided_weights"
    assert calls.seen == ["convolution", taken, "convolution_backward"]


@pytest.mark.parametrize("transposed", [False, True])
def test_strided_maps_take_only_their_weights_from_here(fused, normal, transposed):
    x = last(normal(4, 16, 18, 18).float()).requires_grad_()
    weight = normal(16, 16, 3, 3).float().requires_grad_()
    with Calls() as calls:
        if transposed:
            y = conv_transpose2d(x, weight, stride=2, extra=1)
        else:
            y = conv2d(x, weight, stride=2)
        y.sum().backward()
    assert calls.seen == ["convolution", "strided_weights", "convolution_backward"]


@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_both_derivatives_of_strided_maps(normal, agree, transposed):
    given = {"x": last(normal(4, 16, 18, 19).float()), "weight": normal(16, 16, 3, 3).float()}

    def call(x, weight):
        if transposed:
            return conv_transpose2d(x, weight, stride=2, extra=1)
        return conv2d(x, weight, stride=2)

    agree(call, given, terms=200, second_terms=200)


def test_what_does_not_fit_is_told_by_pytorch(fused, normal):
    x, weight = last(normal(2, 16, 16, 16).float()), normal(16, 17, 3, 3).float()
    with pytest.raises(RuntimeError, match="to have 17 channels, but got 16"):
        conv2d(x, weight, padding=1)


@pytest.mark.parametrize("processor", ["AVX2", "AVX512"])
def test_auto_takes_it_with_avx2_alone(native, normal, monkeypatch, processor):
    monkeypatch.setattr(_dispatch, "_processor", lambda: processor)
    x, weight = last(normal(2, 16, 16, 16).float()), normal(16, 16, 3, 3).float()
    with _dispatch.use_kernels("auto"), Calls() as calls:
        conv2d(x, weight, padding=1)
    assert calls.seen == ["winograd" if processor == "AVX2" else "convolution"]


def test_the_reference_is_that_of_pytorch(normal):
    x, weight = last(normal(2, 16, 16, 16).float()), normal(16, 16, 3, 3).float()
    with _dispatch.use_kernels("reference"), Calls() as calls:
        y = conv2d(x, weight, padding=1)
    assert calls.seen == ["convolution"]
    assert torch.equal(y, F.conv2d(x, weight, padding=1))

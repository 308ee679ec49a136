"""Native convolutions against their definition in float64, and where they are taken."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from defectgen.ops import _dispatch
from defectgen.ops._convolution import convolution, fewest_channels, weight_gradient
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


def close(got, wanted, error=5e-6, dtype=torch.float32):
    assert got.shape == wanted.shape
    assert got.dtype == dtype
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


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("laid", [last, torch.clone], ids=["channels last", "contiguous"])
def test_bfloat16_equals_the_definition_within_its_roundings(normal, shape, laid):
    """Transforms of both factors are rounded: some 2.5 roundings of the result."""
    n, ins, outs, high, wide = shape
    x, dy = (normal(n, c, high, wide).bfloat16() for c in (ins, outs))
    weight = normal(outs, ins, 3, 3).bfloat16()
    wanted = exact(x, weight, dy)
    x, dy, weight = laid(x), laid(dy), laid(weight)
    found = [
        *(convolution(x, weight, local=local) for local in (False, True)),
        convolution(dy, weight, True),
        weight_gradient(x, dy),
    ]
    assert torch.equal(found[0], found[1])
    for got, right in zip(found[1:], wanted, strict=True):
        close(got, right, 2**-6, torch.bfloat16)
        if n and right.numel() > 1000:
            off = (got - right).square().mean().sqrt() / right.square().mean().sqrt()
            assert off < 4 * 2**-9 / math.sqrt(3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("place", [(0, 0), (3, 4), (4, 3), (7, 7), (8, 12), (15, 15)])
def test_without_a_graph_no_bit_depends_on_pixels_that_no_tap_reaches(fused, normal, place, dtype):
    x, weight = last(normal(1, 32, 16, 16).to(dtype)), last(normal(32, 32, 3, 3).to(dtype))
    other, (row, column) = x.clone(memory_format=torch.preserve_format), place
    other[..., row, column] += 1
    reached = torch.zeros(16, 16, dtype=torch.bool)
    reached[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
    with Calls() as calls:
        changed = (conv2d(x, weight, padding=1) != conv2d(other, weight, padding=1)).any(1)[0]
    assert calls.seen == ["winograd", "winograd"]
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("side", [8, 9])
def test_a_sample_has_the_same_bits_in_any_batch(fused, normal, side, dtype):
    x, weight = last(normal(5, 32, side, side).to(dtype)), last(normal(48, 32, 3, 3).to(dtype))
    with Calls() as calls:
        whole = conv2d(x, weight, padding=1)
    assert calls.seen == ["winograd"]
    for k in range(5):
        assert torch.equal(conv2d(x[k : k + 1], weight, padding=1), whole[k : k + 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("ins", "outs"), [(100, 33), (180, 140)], ids=["parts", "shared chunks"])
def test_same_bits_with_any_number_of_threads(normal, dtype, ins, outs):
    x, dy = last(normal(5, ins, 61, 57).to(dtype)), last(normal(5, outs, 61, 57).to(dtype))
    weight = last(normal(outs, ins, 3, 3).to(dtype))
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results = (
                convolution(x, weight),
                convolution(dy, weight, True),
                weight_gradient(x, dy),
                weight_gradient(x.float(), dy[:, :, :30, :28].float(), 2),
            )
            found.append(results)
    finally:
        torch.set_num_threads(before)
    for results in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results, found[0], strict=True))
    # Sums have many chunks here, the last not full or with an odd number of tiles, and groups.
    error = 5e-6 if dtype == torch.float32 else 2**-6
    for got, wanted in zip(found[0], exact(x, weight, dy), strict=False):
        close(got, wanted, error, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 7, 8, 30, 31, 40, 41, 80])
def test_what_is_not_finite_stays_so(normal, number, place, dtype):
    """Training looks for it."""
    x, weight = torch.ones(1, 16, 9, 9, dtype=dtype), normal(16, 16, 3, 3).to(dtype)
    x[0, 3].view(-1)[place] = number
    x = last(x)
    lost = ~convolution(x, weight).isfinite()
    wanted = ~F.conv2d(x, weight, padding=1).isfinite()
    assert torch.equal(~convolution(x, weight, local=True).isfinite(), wanted)
    assert lost[wanted].all()
    tiles = F.max_pool2d(wanted.float(), 7, stride=1, padding=3) > 0
    assert tiles[lost].all()
    assert not weight_gradient(x, torch.ones(1, 16, 9, 9, dtype=dtype)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_infinite_weight_loses_no_other_channel(normal, dtype):
    """Odd channels in are padded, and more than one panel of channels out takes the same room."""
    x, weight = last(normal(1, 17, 9, 9).to(dtype)), normal(70, 17, 3, 3).to(dtype)
    weight[3, 0, 1, 1] = weight[3, 16, 1, 1] = math.inf
    lost = ~convolution(x, last(weight)).isfinite().all(dim=(0, 2, 3))
    assert lost.nonzero().flatten().tolist() == [3]


def test_wrong_shapes_and_dtypes_are_refused(normal):
    x, weight = normal(1, 4, 4, 4).float(), normal(4, 4, 3, 3).float()
    bad = (x, weight[:, :3]), (x, weight[:, :, :2]), (x.double(), weight.double()), (x[0], weight)
    for given in (*bad, (x.bfloat16(), weight), (x, weight.bfloat16())):
        with pytest.raises(RuntimeError, match=r"3x3 weights that fit them; got \("):
            convolution(*given)
    for given in ((x, x[..., :3]), (x, x.double()), (x[:0], x), (x, x.bfloat16())):
        with pytest.raises(RuntimeError, match="gradients of one size and dtype"):
            weight_gradient(*given)
    for given in ((x, x[..., :2]), (x, x[:, :, :1, :1].double()), (x[:0], x[:, :, :1, :1])):
        with pytest.raises(RuntimeError, match="float32 features and gradients that fit them"):
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
    given = {"x": last(normal(2, 32, high, 16).float()), "weight": normal(34, 32, 3, 3).float()}
    agree(lambda x, weight: conv2d(x, weight, padding=1), given, terms=200, second_terms=200)


def test_the_second_derivative_is_made_of_the_same_maps(fused, normal):
    x = last(normal(2, 32, 16, 16).float()).requires_grad_()
    weight = normal(34, 32, 3, 3).float().requires_grad_()
    with Calls() as calls:
        y = conv2d(x, weight, padding=1)
        first = torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)
        torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight))
    assert calls.seen[:3] == ["winograd", "winograd", "winograd_weights"]
    # The adjoint has two gradients and the weights two more; what comes to y has another two.
    assert sorted(calls.seen[3:]) == [*["winograd"] * 4, *["winograd_weights"] * 2]


FEWEST = fewest_channels()
CASES = {
    "as in the networks": ({}, True),
    "as many pairs of channels as pay": ({"side": 8, "ins": 512, "outs": 128}, True),
    "the other way round": ({"side": 8, "ins": 128, "outs": 512}, True),
    "few channels": ({"ins": FEWEST - 1}, False),
    "few channels out": ({"outs": FEWEST - 1}, False),
    "few pixels": ({"side": 7, "batch": 20}, False),
    "as few pixels as pay": ({"side": 8, "batch": 1}, True),
    "contiguous": ({"laid": torch.clone}, False),
    "double": ({"dtype": torch.float64}, False),
    "bfloat16": ({"dtype": torch.bfloat16}, True),
    "half": ({"dtype": torch.float16}, False),
    "1x1": ({"kernel": 1, "padding": 0}, False),
    "no padding": ({"padding": 0}, False),
    "stride and padding": ({"stride": 2}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_taken_where_it_pays(normal, case):
    more, wanted = CASES[case]
    given = {"batch": 2, "ins": FEWEST, "outs": FEWEST, "side": 16, "kernel": 3}
    given |= {"dtype": torch.float32, "laid": last, "padding": 1, "stride": 1, **more}
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
@pytest.mark.parametrize("batch", [1, 2])
def test_with_more_pairs_of_channels_only_the_weights_of_a_batch(fused, normal, stride, batch):
    """All other maps transform the weights first, which few pixels do not pay."""
    x = last(normal(batch, 128, 8 * stride + stride - 1, 9 * stride - 1).float()).requires_grad_()
    weight = normal(577, 128, 3, 3).float().requires_grad_()
    with Calls() as calls:
        conv2d(x, weight, stride=stride, padding=2 - stride).sum().backward()
    own = ["winograd_weights" if stride == 1 else "strided_weights"] if batch == 2 else []
    assert calls.seen == ["convolution", *own, "convolution_backward"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_strided_maps_take_only_their_float32_weights_from_here(fused, normal, transposed, dtype):
    x = last(normal(4, 32, 18, 18).to(dtype)).requires_grad_()
    weight = normal(32, 32, 3, 3).to(dtype).requires_grad_()
    with Calls() as calls:
        if transposed:
            y = conv_transpose2d(x, weight, stride=2, extra=1)
        else:
            y = conv2d(x, weight, stride=2)
        y.sum().backward()
    own = ["strided_weights"] if dtype == torch.float32 else []
    assert calls.seen == ["convolution", *own, "convolution_backward"]


@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_both_derivatives_of_strided_maps(normal, agree, transposed):
    given = {"x": last(normal(4, 32, 18, 19).float()), "weight": normal(32, 32, 3, 3).float()}

    def call(x, weight):
        if transposed:
            return conv_transpose2d(x, weight, stride=2, extra=1)
        return conv2d(x, weight, stride=2)

    agree(call, given, terms=200, second_terms=200)


def test_what_does_not_fit_is_told_by_pytorch(fused, normal):
    x, weight = last(normal(2, 32, 16, 16).float()), normal(32, 33, 3, 3).float()
    with pytest.raises(RuntimeError, match="to have 33 channels, but got 32"):
        conv2d(x, weight, padding=1)


#: Kind of processor -> fewest channels in float32 and in bfloat16.
TAKEN = {
    "AVX2": (16, None),
    "AVX512": (None, None),
    "avx512_bf16": (32, 32),
    "amx_bf16": (None,) * 2,
}


@pytest.mark.parametrize("processor", TAKEN)
@pytest.mark.parametrize("channels", [15, 16, 31, 32])
def test_auto_takes_it_where_it_was_measured(native, normal, monkeypatch, processor, channels):
    monkeypatch.setattr(_dispatch, "processor", lambda: processor)
    for dtype, fewest in zip((torch.float32, torch.bfloat16), TAKEN[processor], strict=True):
        x = last(normal(2, channels, 16, 16).to(dtype))
        weight = normal(channels, channels, 3, 3).to(dtype)
        with _dispatch.use_kernels("auto"), Calls() as calls:
            conv2d(x, weight, padding=1)
        taken = fewest is not None and channels >= fewest
        assert calls.seen == ["winograd" if taken else "convolution"]


def test_the_reference_is_that_of_pytorch(normal):
    x, weight = last(normal(2, 16, 16, 16).float()), normal(16, 16, 3, 3).float()
    with _dispatch.use_kernels("reference"), Calls() as calls:
        y = conv2d(x, weight, padding=1)
    assert calls.seen == ["convolution"]
    assert torch.equal(y, F.conv2d(x, weight, padding=1))

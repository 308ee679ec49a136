"""CUDA kernels among streams, graphs and devices; on a real GPU only."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import grad

from defectgen.ops import _dispatch, bias_act, masked_add, upfirdn2d

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


@pytest.fixture(autouse=True)
def gpu(device):
    if not device.startswith("cuda"):
        pytest.skip("needs a GPU: pass --device cuda")


def some_work(x, r, m):
    """Values and gradients of all ops, as one list."""
    leaf, logits = x.detach().requires_grad_(), m.detach().requires_grad_()
    bias = x.new_ones(x.shape[1], dtype=torch.float32).requires_grad_()
    y = bias_act(leaf, bias, act="lrelu")
    y = masked_add(y, r, logits, mode="straight_through")
    y = upfirdn2d(y, TAPS.to(x.device), pad=(2, 1, 2, 1))
    return [y, *grad(y.square().sum(), [leaf, logits, bias])]


@pytest.fixture
def numbers(normal):
    def draw(device):
        shapes = [(2, 16, 32, 32), (2, 16, 32, 32), (2, 1, 16, 16)]
        return [normal(*s, dtype=torch.float32).to(device) for s in shapes]

    return draw


def test_work_is_queued_on_the_current_stream(native, device, numbers):
    given = numbers(device)
    side = torch.cuda.Stream(device)
    with _dispatch.use_kernels("fused"):
        wanted = some_work(*given)
        torch.cuda.synchronize(device)
        with torch.cuda.stream(side):
            late = [torch.zeros_like(t) for t in given]
            torch.cuda._sleep(100_000_000)
            for to, source in zip(late, given, strict=True):
                to.copy_(source)
            got = some_work(*late)
        side.synchronize()
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


def test_work_can_be_captured_as_a_graph(native, device, numbers):
    x, r, m = numbers(device)
    with _dispatch.use_kernels("fused"), torch.no_grad():
        bias = torch.ones(16, device=device)
        taps = TAPS.to(device)

        def call():
            y = masked_add(bias_act(x, bias, act="lrelu"), r, m)
            return upfirdn2d(y, taps, pad=(2, 1, 2, 1))

        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = call()
        x.normal_()
        graph.replay()
        assert torch.equal(y, call())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_features_counts_not_the_current_one(native, numbers):
    with _dispatch.use_kernels("fused"):
        wanted = some_work(*numbers("cuda:0"))
        with torch.cuda.device(0):
            got = some_work(*numbers("cuda:1"))
            assert torch.cuda.current_device() == 0
    for one, other in zip(got, wanted, strict=True):
        assert one.device.index == 1
        assert torch.equal(one.cpu(), other.cpu())


def test_a_large_tensor_is_counted_in_64_bits(native, device):
    """More than 2^32 numbers: 8 GB in, 8 GB out."""
    if torch.cuda.mem_get_info(device)[0] < 24 << 30:
        pytest.skip("needs 24 GB of free GPU memory")
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.empty(17, 64, 2048, 2048, dtype=torch.half, device=device, memory_format=layout)
        x.zero_()[-1, -1, -1] = torch.arange(2048, device=device) - 1024
        with _dispatch.use_kernels("fused"), torch.no_grad():
            y = bias_act(x, torch.ones(64, device=device), act="lrelu", gain=1.0)
            assert torch.equal(
                y[-1, -1, -1], bias_act(x[-1:, -1:, -1:] + 1, act="lrelu", gain=1.0)[0, 0, 0]
            )
            assert bool((y[0] == 1).all())
            del y
            z = upfirdn2d(x, TAPS.to(device), pad=(2, 1, 2, 1))
            few = upfirdn2d(x[-1:, -1:, -8:].contiguous(), TAPS.to(device), pad=(2, 1, 2, 1))
            assert torch.equal(z[-1, -1, -4:], few[0, 0, -4:])
            del z

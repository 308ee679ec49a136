"""What the tests of all ops share: numbers, tolerances, and both implementations side by side."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import grad

from defectgen.errors import KernelBuildError
from defectgen.ops import _build, _dispatch

#: Largest relative and absolute error of an op against its definition in float64.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 8e-2,
}
#: Half a unit in the last place, relative: what one rounding may cost. And what sums may cost,
#: relative to the largest number of a tensor: they have at least float32's precision.
ROUNDING = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (1e-6, 3e-6),
    torch.float16: (2**-11, 3e-6),
    torch.bfloat16: (2**-8, 3e-6),
}


@pytest.fixture
def normal():
    """normal(*shape): standard normal float64 numbers, the same in every run of a test."""
    source = torch.Generator().manual_seed(0)

    def draw(*shape, dtype=torch.float64):
        return torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)

    return draw


@pytest.fixture
def steps():
    """steps(*shape): multiples of 1/8 in [-2, 2], the same in every run of a test.

    Exact in every dtype, and so are their sums: no two ways to add them disagree about a sign.
    """
    source = torch.Generator().manual_seed(1)

    def draw(*shape, dtype=torch.float64):
        return (torch.randint(-16, 17, shape, generator=source) / 8).to(dtype)

    return draw


@pytest.fixture
def same():
    """same(got, wanted): equal shape, and values equal as far as the dtype of ``got`` can tell."""

    def check(got, wanted):
        wanted = torch.as_tensor(wanted, dtype=torch.float64)
        tolerance = TOLERANCES[got.dtype]
        torch.testing.assert_close(
            got.detach().cpu().double(), wanted, rtol=tolerance, atol=tolerance
        )

    return check


# -- implementations -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def native(device):
    """Native kernels of the device are loaded, or the test is skipped with the reason."""
    try:
        _build.load(torch.device(device).type)
    except KernelBuildError as error:
        pytest.skip(f"no native kernels to test: {error}")


@pytest.fixture
def fused(native):
    """The test runs on native kernels."""
    with _dispatch.use_kernels("fused"):
        yield


@pytest.fixture(params=["reference", "fused"])
def kernels(request):
    """The test runs twice: on the reference, and on native kernels where they can be had."""
    if request.param == "fused":
        request.getfixturevalue("native")
    with _dispatch.use_kernels(request.param):
        yield request.param


# -- fused against reference -----------------------------------------------------------------------

#: How features usually lie in memory, and how else they can; see ``lay`` and ``mislay``.
DENSE = ("contiguous", "channels last")
ODD = ("slice", "slice of channels last", "expanded", "turned")


def arranger(layout, device):
    def arrange(x):
        x = x.to(device).contiguous(memory_format=arrange.format)
        if layout.startswith("slice"):
            n, c, h, w = x.shape
            big = x.new_full((n, c + 1, h + 2, w + 3), float("nan"))
            big = big.contiguous(memory_format=arrange.format)
            big[:, 1:, 1:-1, 2:-1] = x
            return big[:, 1:, 1:-1, 2:-1]
        if layout == "expanded":
            return x[:1].expand_as(x) if len(x) else x
        return x.mT.contiguous().mT if layout == "turned" else x

    last = layout.endswith("channels last")
    arrange.format = torch.channels_last if last else torch.contiguous_format
    return arrange


@pytest.fixture(params=DENSE)
def lay(request, device):
    """lay(x): ``x`` in one of two memory formats; lay.format is that of the result."""
    return arranger(request.param, device)


@pytest.fixture(params=ODD)
def mislay(request, device):
    """mislay(x): the numbers of ``x`` scattered in memory in one of four ways; format as above."""
    return arranger(request.param, device)


def close(got, wanted, what, terms=1):
    """``got`` is the exact ``wanted``, rounded once; or a sum of rounded terms as large as that."""
    assert got.shape == wanted.shape, what
    rounding, sums = ROUNDING[got.dtype]
    size = wanted.abs().max().item() if wanted.numel() else 0.0
    torch.testing.assert_close(
        got.detach().to(wanted.dtype),
        wanted.detach(),
        rtol=1.01 * rounding,
        atol=(terms * sums + (terms - 1) * rounding) * size + 1e-30,
        msg=lambda text: f"{what}: {text}",
    )


def derivatives(call, inputs, draw):
    """Value, first and second gradients of a function of named tensors, along random directions."""
    leaves = {name: x for name, x in inputs.items() if x.requires_grad}
    y = call(**inputs)
    found = {"value": y}
    if not leaves:
        return found
    dy = draw("dy", y).requires_grad_()
    options = {"allow_unused": True, "materialize_grads": True}
    first = grad(y, list(leaves.values()), dy, create_graph=True, **options)
    found |= {f"gradient to {name}": g for name, g in zip(leaves, first, strict=True)}
    total = sum((g * draw(name, g)).sum() for name, g in zip(leaves, first, strict=True))
    if total.requires_grad:
        leaves["dy"] = dy
        second = grad(total, list(leaves.values()), **options)
        found |= {f"second gradient to {n}": g for n, g in zip(leaves, second, strict=True)}
    return found


@pytest.fixture
def agree(native, device):
    """agree(call, inputs, ...): native kernels give what the reference gives, to second order.

    The reference computes in float64, on the very numbers that the native kernels get; so those
    must be right up to one rounding, whatever their dtype; ``fixed`` inputs get no gradients.
    """

    def check(call, inputs, fixed=(), terms=1, second_terms=None):
        given = {
            name: x.to(device).detach().requires_grad_(x.is_floating_point() and name not in fixed)
            for name, x in inputs.items()
        }
        before = {name: x.detach().clone() for name, x in given.items()}
        exact = {
            name: x.detach().double().requires_grad_(x.requires_grad)
            if x.is_floating_point()
            else x
            for name, x in given.items()
        }
        drawn = {}

        def draw(name, like):
            if name not in drawn:
                source = torch.Generator().manual_seed(len(drawn))
                numbers = torch.randint(-8, 9, like.shape, generator=source) / 4
                drawn[name] = numbers.to(device)
            return drawn[name].to(like.dtype)

        with _dispatch.use_kernels("reference"):
            wanted = derivatives(call, exact, draw)
        with _dispatch.use_kernels("fused"):
            got = derivatives(call, given, draw)
            with torch.no_grad():
                bare = call(**given)
        assert got.keys() == wanted.keys()
        for what, numbers in got.items():
            many = second_terms if second_terms and what.startswith("second") else terms
            close(numbers, wanted[what], what, many)
        close(bare, wanted["value"], "value without a graph", terms)
        for name, x in before.items():
            assert torch.equal(given[name], x), f"{name} was changed in place"
        return got

    return check

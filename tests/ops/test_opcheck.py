"""What PyTorch asks of an op: schema, shapes for tracing, gradients; with native kernels or not."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import defectgen
from defectgen.ops import _build
from defectgen.ops.masked_add import _table

ROOT = Path(defectgen.__file__).parents[1]
OPS = (
    "bias_act",
    "bias_act_tangent",
    "bias_act_backward",
    "upfirdn2d",
    "upfirdn2d_bias_act",
    "masked_add",
    "masked_add_backward",
)
#: On the CPU alone: cuDNN chooses its algorithms itself.
PLAIN = ("winograd", "winograd_weights", "strided_weights")
QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")
GRADIENTS = ("test_autograd_registration", "test_aot_dispatch_dynamic")
CURVE = (0.2, 1.3, 1.5)


def turned(x):
    return x.mT.contiguous().mT


LAYOUTS = {
    "contiguous": torch.clone,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "slice": lambda x: torch.cat([x, x], 3)[:, :, :, : x.shape[3]],
    "slice of channels last": lambda x: LAYOUTS["channels last"](torch.cat([x, x], 2))[:, :, 6:],
    "turned": turned,
    "one pixel": lambda x: LAYOUTS["channels last"](x)[:, :, 2:3, 1:2],
    "one channel": lambda x: LAYOUTS["channels last"](x)[:, 1:2],
    "no sample": lambda x: LAYOUTS["channels last"](x)[:0],
}


def samples(op, layout="contiguous", dtype=torch.float32, device="cpu", graph=False):
    """Lists of arguments of an op; with ``graph`` those that can ask for gradients do."""
    source = torch.Generator().manual_seed(0)
    small = torch.promote_types(dtype, torch.float32)

    def features():
        x = torch.randn(2, 3, 6, 4, generator=source).to(device, dtype)
        return LAYOUTS[layout](x).requires_grad_(graph)

    x = features()
    n, c, h, w = x.shape

    def few(*shape, leaf=graph):
        return torch.randn(shape, generator=source).to(device, small).requires_grad_(leaf)

    per_channel, rows, plane = (c,), (n, c), (n, 1, h, w)
    if op == "bias_act":
        yield x, few(*rows), few(*plane), few(*per_channel), None, *CURVE
        yield x, None, None, None, None, 1.0, 1.0, -1.0
        if not graph:
            yield x, few(*rows), None, few(*per_channel), few(*rows), *CURVE
    elif op == "bias_act_tangent":
        if not graph:  # the end of the line: it is the second derivative
            terms = few(*rows), features(), few(*rows), few(n, h * w), few(*rows)
            yield x, features(), *terms, *CURVE
            yield x, None, None, None, None, None, None, *CURVE
    elif op == "bias_act_backward":
        y = x.detach()
        yield features(), y, features(), few(*rows), True, True, *CURVE
        yield features(), y, None, None, True, False, *CURVE
        yield features(), y, None, None, False, False, 1.0, 1.0, -1.0
    elif op == "upfirdn2d":
        yield x, few(4, leaf=False), 2, 1, 2, 1, 2, 1
        yield x, few(3, leaf=False), 1, 2, 5, 5, -1, 9
    elif op == "upfirdn2d_bias_act":
        if not graph:  # for inference
            end = few(*rows), few(*plane), few(*per_channel), few(*rows)
            yield x, few(4), 1, 1, 2, 1, 2, 1, *end, *CURVE
            yield x, few(4), 2, 1, 2, 1, 2, 1, None, None, None, None, *CURVE
    elif op == "masked_add":
        factor = 2 if h > 1 else 1
        logits = few(n, 1, h // factor, w // factor)
        rows, columns = (_table(size // factor, factor, x.device, small) for size in (h, w))
        within = few(*plane, leaf=False) > 0
        yield x, features(), logits, *rows, *columns, None, False
        yield x, features(), logits, *rows, *columns, within, True
    elif op == "masked_add_backward":
        gate, within = (few(*plane, leaf=False) > 0 for _ in range(2))
        yield features(), gate.byte(), features().detach(), few(*plane), within, 2.0
        yield features(), gate.byte(), None, None, None, 2.0
    elif op == "winograd" and not graph:  # convolution.py differentiates it
        yield x, few(5, c, 3, 3), False, False
        yield x, LAYOUTS["channels last"](few(c, 5, 3, 3)), True, True
    elif op == "winograd_weights" and not graph:
        yield x, torch.cat([features(), x], 1)
    elif op == "strided_weights" and not graph and min(h, w) > 2:
        yield x, few(n, 5, (h - 1) // 2, (w - 1) // 2), 2


def call(op, arguments):
    results = getattr(torch.ops.defectgen, op).default(*arguments)
    return results if isinstance(results, tuple) else (results,)


def check(op, arguments, tests=QUICK):
    opcheck(getattr(torch.ops.defectgen, op).default, arguments, test_utils=tests)


# -- with native kernels ---------------------------------------------------------------------------


def test_every_op_of_the_namespace_has_a_native_kernel(native, device):
    names = {
        name for name in torch._C._dispatch_get_all_op_names() if name.startswith("defectgen:")
    }
    assert names == {f"defectgen::{op}" for op in (*OPS, *PLAIN)}
    key = torch.device(device).type.upper()
    for name in names - ({f"defectgen::{op}" for op in PLAIN} if key == "CUDA" else set()):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", [*OPS, *PLAIN])
def test_schema_and_shapes(native, device, op, layout):
    for arguments in samples(op, layout, device=device):
        check(op, arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtypes_of_results(native, device, dtype):
    for op in OPS:
        check(op, next(samples(op, "channels last", dtype, device)))


@pytest.mark.parametrize("op", [op for op in OPS if any(samples(op, graph=True))])
def test_gradients_under_tracing(native, device, op):
    for arguments in samples(op, "channels last", device=device, graph=True):
        check(op, arguments, GRADIENTS)


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("op", ["bias_act", "upfirdn2d", "masked_add"])
def test_the_formula_that_torch_knows_is_right_to_second_order(native, op, check):
    """The public functions take a shorter way to the same formula; their tests are elsewhere."""
    for arguments in samples(op, "slice of channels last", torch.float64, graph=True):
        straight_through = arguments[-1] is True
        if not straight_through:  # no derivative of the function that it computes
            assert check(lambda *given: call(op, given)[0], arguments, fast_mode=True)


# -- without ---------------------------------------------------------------------------------------


def alone(path):
    """In a process of its own: schemas and shapes on the reference kernels; keeps their results."""
    from safetensors.torch import save_file

    results, failures = {}, []
    for op, layout in product((*OPS, *PLAIN), LAYOUTS):
        for k, arguments in enumerate(samples(op, layout)):
            try:
                check(op, arguments)
                for i, result in enumerate(call(op, arguments)):
                    results[f"{op}/{layout}/{k}/{i}"] = result.contiguous()
            except Exception as error:  # noqa: BLE001  all of them are told at once
                failures.append(f"{op}, {layout}, {k}: {str(error)[:600]}")
    assert not _build.is_loaded("cpu")
    save_file(results, path)
    print(*failures, sep="\n")


@pytest.fixture(scope="module")
def unloaded(tmp_path_factory):
    """Failures and results of :func:`alone`."""
    from safetensors.torch import load_file

    path = tmp_path_factory.mktemp("alone") / "results.safetensors"
    script = "import runpy, sys; runpy.run_path(sys.argv[1])['alone'](sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", script, __file__, path],
        env=os.environ | {"PYTHONPATH": str(ROOT), "DEFECTGEN_KERNELS": "reference"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), load_file(path)


def test_everything_holds_without_a_native_library(unloaded):
    assert unloaded[0] == ""


def test_native_kernels_and_reference_kernels_return_the_same(native, unloaded):
    for name, wanted in unloaded[1].items():
        op, layout, k, i = name.split("/")
        arguments = list(samples(op, layout))[int(k)]
        torch.testing.assert_close(
            call(op, arguments)[int(i)],
            wanted,
            rtol=2e-5,
            atol=2e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )

"""Which implementation runs: the mode, the table, and what happens where there are no kernels."""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

from defectgen.errors import ConfigError, KernelBuildError, KernelWarning
from defectgen.ops import _build, _dispatch, bias_act, masked_add, modulated_conv2d, upfirdn2d

OPS = ("bias_act", "upfirdn2d", "masked_add")


@pytest.fixture
def loads(workshop, monkeypatch):
    """Kinds that were asked for; nothing is built or loaded."""
    asked: list[str] = []

    def load(kind):
        asked.append(kind)
        return Path(kind)

    monkeypatch.setattr(_build, "load", load)
    return asked


@pytest.fixture
def broken(workshop, monkeypatch):
    """Kinds that were asked for in vain."""
    asked: list[str] = []

    def load(kind):
        asked.append(kind)
        raise KernelBuildError("compiler: it is on holiday")

    monkeypatch.setattr(_build, "load", load)
    return asked


# -- modes -----------------------------------------------------------------------------------------


def test_auto_loads_once_and_remembers(loads):
    assert _dispatch.mode() == "auto"
    assert [_dispatch.native("cpu") for _ in range(3)] == [True] * 3
    assert loads == ["cpu"]
    assert _dispatch.native("cuda")
    assert loads == ["cpu", "cuda"]


def test_reference_never_loads(loads, monkeypatch):
    monkeypatch.setenv("DEFECTGEN_KERNELS", "reference")
    assert not _dispatch.native("cpu")
    assert not _dispatch.chosen("bias_act", torch.ones(1))
    assert loads == []


@pytest.mark.parametrize("device_type", ["mps", "meta", "xpu"])
def test_other_devices_have_no_kernels(loads, monkeypatch, device_type):
    assert not _dispatch.native(device_type)
    monkeypatch.setenv("DEFECTGEN_KERNELS", "fused")
    assert not _dispatch.native(device_type)
    assert loads == []


def test_the_environment_is_read_when_asked(loads, monkeypatch):
    for value, mode in [("fused", "fused"), ("reference", "reference"), ("", "auto")]:
        monkeypatch.setenv("DEFECTGEN_KERNELS", value)
        assert _dispatch.mode() == mode
        assert _dispatch.native("cpu") is (mode != "reference")


def test_a_bad_value_is_one_sentence_at_every_call(loads, monkeypatch):
    monkeypatch.setenv("DEFECTGEN_KERNELS", "fast")
    for _ in range(2):
        for ask in (_dispatch.mode, lambda: _dispatch.native("cpu")):
            with pytest.raises(
                ConfigError,
                match="DEFECTGEN_KERNELS: must be one of auto, reference, fused; got 'fast'",
            ):
                ask()


def test_the_context_manager_overrules_the_environment_and_ends(loads, monkeypatch):
    monkeypatch.setenv("DEFECTGEN_KERNELS", "fused")
    with _dispatch.use_kernels("reference"):
        assert _dispatch.mode() == "reference"
        with _dispatch.use_kernels("auto"):
            assert _dispatch.mode() == "auto"
        assert not _dispatch.native("cpu")
    assert _dispatch.mode() == "fused"
    with pytest.raises(ZeroDivisionError), _dispatch.use_kernels("reference"):
        raise ZeroDivisionError
    assert _dispatch.mode() == "fused"
    with pytest.raises(ConfigError, match="mode: must be one of"), _dispatch.use_kernels("both"):
        pass
    assert _dispatch.mode() == "fused"


# -- where there are none --------------------------------------------------------------------------


def test_fused_is_an_error_at_every_call(broken, monkeypatch):
    monkeypatch.setenv("DEFECTGEN_KERNELS", "fused")
    for _ in range(2):
        with pytest.raises(KernelBuildError, match="on holiday"):
            _dispatch.native("cpu")
    assert len(broken) == 2


def everything(device: str = "cpu") -> list[torch.Tensor]:
    """Results and gradients of all four ops."""
    source = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 8, 8), (3,), (2, 1, 4, 4), (5, 3, 3, 3), (2, 3), (4,)]
    x, bias, logits, weight, styles, taps = (
        torch.randn(shape, generator=source).to(device) for shape in shapes
    )
    x.requires_grad_()
    results = [
        bias_act(x, bias, act="lrelu"),
        upfirdn2d(x, taps, up=2, pad=(2, 1, 2, 1)),
        masked_add(x, 2 * x, logits),
        modulated_conv2d(x, weight, styles),
    ]
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in results]
    return [y.detach() for y in results] + gradients


def test_auto_warns_once_and_the_results_are_those_of_the_reference(broken):
    with pytest.warns(KernelWarning) as caught:
        first = everything()
    assert len(caught) == 1
    said = str(caught[0].message)
    assert "no native kernels for cpu" in said
    assert "computes the same, slower" in said
    assert "on holiday" in said
    second = everything()  # a second warning would be an error here
    with _dispatch.use_kernels("reference"):
        wanted = everything()
    for a, b, c in zip(first, second, wanted, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, c)
    assert broken == ["cpu"]


def test_no_compiler_is_no_obstacle(workshop, monkeypatch):
    monkeypatch.setenv("CXX", str(workshop / "gone"))
    with pytest.warns(KernelWarning, match=r"install g\+\+ and ninja, or set DEFECTGEN_KERNELS="):
        assert not _dispatch.native("cpu")
    assert not _dispatch.native("cpu")
    assert "cpu: unavailable; compiler: kernels need" in "\n".join(_dispatch.describe())


def test_a_warning_that_is_made_an_error_comes_once_too(broken):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KernelWarning):
            _dispatch.native("cpu")
        assert not _dispatch.native("cpu")


def test_threads_that_ask_at_once_load_and_warn_once(broken):
    barrier, answers = threading.Barrier(4), []

    def ask():
        barrier.wait()
        answers.append(_dispatch.native("cpu"))

    def ask_at_once():
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with pytest.warns(KernelWarning) as caught:
        ask_at_once()
    assert answers == [False] * 4
    assert len(caught) == len(broken) == 1


def test_torch_compile_builds_nothing_and_follows_the_mode(loads):
    def which(x):
        return x + 1 if _dispatch.chosen("bias_act", x) else x - 1

    compiled = torch.compile(which, fullgraph=True, backend="eager")
    x = torch.zeros(3)
    assert compiled(x).tolist() == [-1] * 3  # nothing loaded yet
    assert loads == []
    assert _dispatch.chosen("bias_act", x)
    assert compiled(x).tolist() == [1] * 3
    with _dispatch.use_kernels("reference"):
        assert compiled(x).tolist() == [-1] * 3


# -- the table -------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_every_op_and_device():
    lines = {(op, kind) for op in OPS for kind in ("cpu", "cuda")}
    assert set(_dispatch.TABLE) == lines
    for line in (*_dispatch.TABLE.values(), *_dispatch.PROCESSORS["convolution", "cpu"].values()):
        assert line <= _dispatch.DTYPES


@pytest.mark.parametrize(
    ("vectors", "products", "kind", "dtypes"),
    [
        ("DEFAULT", [], "DEFAULT", []),
        ("AVX2", [], "AVX2", [torch.float32]),
        ("AVX512", [], "AVX512", []),
        ("AVX512", ["avx512_bf16"], "avx512_bf16", [torch.float32, torch.bfloat16]),
        ("AVX512", ["avx512_bf16", "amx_bf16"], "amx_bf16", []),
    ],
)
def test_a_processor_may_decide(loads, monkeypatch, vectors, products, kind, dtypes):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    known = dict.fromkeys(products, True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    _dispatch.processor.cache_clear()
    try:
        x = torch.ones(2, 5)
        assert _dispatch.processor() == kind
        assert _dispatch.chosen("bias_act", x)
        for dtype in _dispatch.DTYPES:
            assert _dispatch.chosen("convolution", x.to(dtype)) == (dtype in dtypes)
        with _dispatch.use_kernels("fused"):
            assert _dispatch.chosen("convolution", x)
    finally:
        _dispatch.processor.cache_clear()


def test_auto_follows_the_table_and_fused_only_the_dtypes(loads, monkeypatch):
    monkeypatch.setitem(_dispatch.TABLE, ("bias_act", "cpu"), frozenset({torch.float32}))
    x = torch.ones(2, 5)
    asked = [x, x.double(), x.long(), x.to("meta")]
    assert [_dispatch.chosen("bias_act", x) for x in asked] == [True, *[False] * 3]
    with _dispatch.use_kernels("fused"):
        assert [_dispatch.chosen("bias_act", x) for x in asked] == [*[True] * 2, False, False]
    with _dispatch.use_kernels("reference"):
        assert not _dispatch.chosen("bias_act", x)


def test_asking_again_costs_microseconds(loads):
    x = torch.ones(4)
    _dispatch.chosen("bias_act", x)
    rounds, best = 2000, float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(rounds):
            _dispatch.chosen("bias_act", x)
        best = min(best, (time.perf_counter() - start) / rounds)
    assert best < 20e-6


# -- in words --------------------------------------------------------------------------------------


def test_the_description_names_mode_libraries_and_cache(workshop, monkeypatch):
    monkeypatch.setenv("DEFECTGEN_KERNELS", "reference")
    lines = dict(line.split(": ", 1) for line in _dispatch.describe())
    assert lines["mode"] == "reference"
    assert lines["cpu"].split(";")[0] in ("not built", "unavailable")
    assert lines["cuda"].startswith(("unavailable; ", "not built; "))
    assert lines["cache"] == str(workshop / "cache" / "kernels")

"""Options, limits and fixtures of the whole test suite."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

#: Seconds one test may take, where pytest-timeout is installed; without and with ``slow``.
LIMIT, SLOW_LIMIT = 60, 600
#: Begins the reason of every test skipped for want of real data; the summary counts these.
NO_DATA = "needs --data=PATH"

try:
    from hypothesis import settings
except ModuleNotFoundError:  # a machine with torch and pytest only; such test files skip themselves
    pass
else:
    # Two shared cores: a deadline per example would fail by chance, a random seed likewise.
    settings.register_profile("house", deadline=None, derandomize=True)
    settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", metavar="PATH", help="folder of real data sets in MVTec layout")
    parser.addoption("--runslow", action="store_true", help="run the tests marked slow as well")
    parser.addoption("--device", default="cpu", help="torch device of the tests that ask for one")


def pytest_configure(config: pytest.Config) -> None:
    # One build of the native kernels for every run in this checkout, and none in the user's cache.
    os.environ.setdefault("DEFECTGEN_CACHE", str(Path(__file__).parents[1] / ".cache"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build and load the kernels before the first test, so that no test's limit pays for it.

    Where that fails, the tests run on the reference, after one line; tests/ops say more.
    """
    # Of several processes the one that tells them what to do prints; it has no tests of its own.
    several = session.config.getoption("numprocesses", None)
    if session.config.option.collectonly or not (session.items or several):
        return
    from defectgen.errors import KernelWarning
    from defectgen.ops import _dispatch

    device = session.config.getoption("--device").partition(":")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KernelWarning)
        loaded = {kind: _dispatch.native(kind) for kind in {"cpu", device}}
    if not all(loaded.values()) and _dispatch.mode() != "reference":
        print(*_dispatch.describe(), sep="\n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_slow = pytest.mark.skip(reason="needs --runslow")
    for item in items:
        slow = item.get_closest_marker("slow") is not None
        if slow and not config.getoption("--runslow"):
            item.add_marker(skip_slow)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT if slow else LIMIT))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    missed = sum(NO_DATA in str(report.longrepr) for report in skipped)
    if missed:
        terminalreporter.write_line(
            f"{missed} test(s) skipped for want of real data: pass --data=PATH", yellow=True
        )


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The same sums on every machine; and on tiny tensors two threads mostly wait."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """Folder given by --data; skips the test where there is none."""
    given = request.config.getoption("--data")
    if given is None:
        pytest.skip(NO_DATA)
    folder = Path(given)
    if not folder.is_dir():
        pytest.fail(f"--data: an existing folder; got {given!r}; pass the folder of the data sets.")
    return folder


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Torch device given by --device."""
    name: str = request.config.getoption("--device")
    if name.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip(f"no CUDA on this machine, and --device {name} was given")
    return name


# -- tiny networks, and one fitted object of each kind, made once ---


def _shrink(patch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    import defectgen.backbone
    import defectgen.defect_fit
    from defectgen.training import defect_start

    # Objects that are rendered to find a background like each photo's.
    patch.setattr(defect_start, "START_CANDIDATES", 32)
    backbone_config = defectgen.backbone.backbone_config
    defect_config = defectgen.defect_fit.defect_config

    def small_backbone(*arguments, **options):
        sizes = {"z_dim": 8, "w_dim": 16, "channel_base": 256, "channel_max": 16}
        return replace(backbone_config(*arguments, **options), **sizes)

    def small_defect(*arguments):
        shape = defect_config(*arguments)
        return replace(shape, match_channel_base=256, match_channel_max=16)

    patch.setattr(defectgen.backbone, "backbone_config", small_backbone)
    patch.setattr(defectgen.defect_fit, "defect_config", small_defect)


@pytest.fixture
def tiny(monkeypatch):
    """`fit` builds networks small enough for a test, whatever the recipe of the day."""
    _shrink(monkeypatch)


@pytest.fixture(scope="session")
def shrink():
    """shrink(monkeypatch): what `tiny` does, for fixtures that live longer than a test."""
    return _shrink


def _product(n, *, resolution=32, channels=3, seed=0):
    """Draw n parts, uint8 (n, C, R, R): a plate that is bright to the right, with a dark hole."""
    import torch

    source = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, resolution)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    jitter = torch.rand(n, 3, 1, 1, 1, generator=source) - 0.5
    plate = ((x.abs() < 0.8) & (y.abs() < 0.7)) * (0.6 + 0.2 * x)
    hole = ((x + 0.3 + 0.2 * jitter[:, 0]).square() + (y + 0.2).square()) < 0.06
    grey = plate * ~hole + 0.1 + 0.2 * jitter[:, 1]
    tint = torch.tensor([1.0, 0.8, 0.5])[:channels, None, None]
    noise = 0.05 * torch.rand(n, channels, resolution, resolution, generator=source)
    return ((grey * tint + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def _defects(n, **fields):
    """Draw n parts with a pale square, and its masks, bool (n, 1, R, R)."""
    import torch

    images = _product(n, **{"seed": 1, **fields})
    side = images.shape[-1]
    masks = torch.zeros(n, 1, side, side, dtype=torch.bool)
    for k in range(n):
        top, left = side // 4 + (3 * k) % (side // 4), side // 8 + (5 * k) % (side // 2)
        masks[k, :, top : top + side // 4, left : left + side // 4] = True
    return images.masked_fill(masks, 230), masks


@pytest.fixture(scope="session")
def product():
    """product(n, *, resolution=32, channels=3, seed=0): uint8 images of good parts."""
    return _product


@pytest.fixture(scope="session")
def defects():
    """defects(n, *, resolution=32, channels=3, seed=1): uint8 images and bool masks."""
    return _defects


def _fitted(build):
    """Run build() with tiny networks, one thread, and without the alarms of a short training."""
    import torch

    from defectgen.errors import TrainingWarning

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        _shrink(patch)
        result = build()
    torch.set_num_threads(before)
    return result


TINY_FIT = {"kimg": 0.064, "batch_size": 4, "seed": 0, "device": "cpu", "verbose": 0}


@pytest.fixture(scope="session")
def fitted_backbone():
    """A tiny fitted Backbone, 32 px; tests read it and never change it."""
    from defectgen import Backbone

    return _fitted(lambda: Backbone(32, augment="safe", **TINY_FIT).fit(_product(12)))


@pytest.fixture(scope="session")
def fitted_synth(fitted_backbone):
    """A tiny fitted DefectSynthesizer on it; tests read it and never change it."""
    from defectgen import DefectSynthesizer

    return _fitted(lambda: DefectSynthesizer(fitted_backbone, **TINY_FIT).fit(*_defects(6)))


# -- native kernels ---


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """Folder with a tiny library to build in ``csrc`` instead of ours, and an empty ``cache``.

    Nothing that this process has built or found out before is known while the test runs.
    """
    from defectgen.ops import _build, _cache, _dispatch, _recipe

    csrc = tmp_path / "csrc"
    csrc.mkdir()
    (csrc / "answer.h").write_text("#define ANSWER 42\n")
    export = '#include "answer.h"\nextern "C" __attribute__((visibility("default"))) '
    (csrc / "bind_cpu.cpp").write_text(export + "int answer() { return ANSWER; }\n")
    (csrc / "bind_cuda.cpp").write_text("int nothing;\n")
    (csrc / "answer_cuda.cu").write_text("__global__ void nothing() {}\n")
    monkeypatch.setattr(_recipe, "CSRC", csrc)
    monkeypatch.setattr(_build, "_loaded", {})
    monkeypatch.setattr(_cache, "_instead", {})
    monkeypatch.setattr(_dispatch, "_answers", {})
    monkeypatch.setenv("DEFECTGEN_CACHE", str(tmp_path / "cache"))
    for name in ("CXX", "DEFECTGEN_KERNELS", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path

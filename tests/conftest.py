"""Options, limits and fixtures of the whole test suite."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Seconds one test may take, where pytest-timeout is installed; without and with ``slow``.
LIMIT, SLOW_LIMIT = 60, 600
#: Begins the reason of every test skipped for want of real data; the summary counts these.
NO_DATA = "needs --data"

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
            f"{missed} test(s) skipped for want of real data: pass --data PATH", yellow=True
        )


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """Give every machine the same number of threads, hence the same sums."""
    import torch

    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """Folder given by --data; skips the test where there is none."""
    given = request.config.getoption("--data")
    if given is None:
        pytest.skip(f"{NO_DATA} PATH")
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

"""What a user gets: sdist -> wheel -> an environment without our dependencies -> the command."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import defectgen

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000

needed = ("build", "hatchling")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in needed),
    reason="build and hatchling are not installed",
)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # Without isolation: nothing is downloaded. The wheel is made from the sdist, not from here.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_the_package_and_nothing_else(names):
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "defectgen").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"defectgen-{defectgen.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == expected
    assert "defectgen/py.typed" in names
    assert any("/assets/" in name for name in names)
    # Kernels are compiled where they are used, so their sources have to come along.
    assert {"defectgen/ops/csrc/hd.h", "defectgen/ops/csrc/bind_cpu.cpp"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".ninja"))]
    assert {f"{info}licenses/LICENSE", f"{info}licenses/NOTICE"} <= names


def test_wheel_is_small_and_for_every_machine(wheel):
    assert wheel.stat().st_size < 10 * MEGABYTE
    assert wheel.name == f"defectgen-{defectgen.__version__}-py3-none-any.whl"


def test_metadata_say_what_pyproject_says(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"defectgen-{defectgen.__version__}.dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Dist: torch>=2.10" in text
    assert "+cpu" not in text


def test_sdist_can_be_built_and_tested_from(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "NOTICE", "README.md", "tests/conftest.py"} <= inside
    assert {"defectgen/ops/csrc/hd.h", "defectgen/ops/csrc/bind_cpu.cpp"} <= inside
    top = {name.partition("/")[0] for name in inside}
    assert not top & {".venv", "out", "docs", ".ci", ".git", "site", ".cache"}
    assert path.stat().st_size < 10 * MEGABYTE


def test_the_installed_command_answers_outside_the_checkout(wheel, tmp_path):
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    bin_dir = home / ("Scripts" if os.name == "nt" else "bin")
    run(bin_dir / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    where = run(
        bin_dir / "python", "-c", "import defectgen; print(defectgen.__file__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(home)
    # Torch is not in that environment, so this also proves that help does not ask for it.
    assert "usage" in run(bin_dir / "defectgen", "--help", cwd=tmp_path).lower()

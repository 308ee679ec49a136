"""Imports go down only: the import-linter contract of pyproject.toml, and a proof that it bites."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("importlinter") is None, reason="import-linter is not installed"
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for source in (ROOT / "defectgen").rglob("*.py"):
        target = tmp_path / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return tmp_path


def test_imports_go_down_only():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("defectgen/errors.py", "defectgen.files"),
        ("defectgen/networks/layers.py", "defectgen.losses"),
        ("defectgen/losses.py", "defectgen.sheet"),
        ("defectgen/weights.py", "defectgen.backbone"),
    ],
)
def test_an_upward_or_sideways_import_is_found(copy, lower, upper):
    with (copy / lower).open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef late() -> None:\n    import {upper}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert upper in done.stdout


def test_a_module_without_a_floor_is_found(copy):
    (copy / "defectgen" / "helpers.py").write_text('"""A room of its own."""\n')
    done = lint(copy)
    assert done.returncode == 1
    assert "helpers" in done.stdout

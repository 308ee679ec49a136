"""The scripts under examples/ that talk to a hub, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN

import defectgen
from defectgen.registry import ZOO_FILE

ROOT = Path(defectgen.__file__).parents[1]
SCRIPT = ROOT / "examples" / "zoo_round_trip.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs a checkout")


def call(folder, environment, *words):
    variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), "--namespace", "tester", *words],
        env={**os.environ, **variables, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_category_goes_round(hub, environment, tmp_path):
    shipped = ZOO_FILE.read_bytes()
    done = call(tmp_path, {**environment, "HF_TOKEN": TOKEN}, "--work", "work")
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["trained", "published", *["pulled"] * 2]
    assert all("samples byte for byte those of" in line for line in lines[2:])
    assert "mvtec/hazelnut/print" in lines[3]
    base, branch = "tester/mvtec-hazelnut", "tester/mvtec-hazelnut-print"
    assert set(hub.repos) == {base, branch}
    entry = json.loads((tmp_path / "work/zoo.json").read_text())["entries"]["mvtec/hazelnut"]
    assert entry["revision"] == hub.repos[base].refs["main"]
    assert entry["branches"]["print"]["revision"] == hub.repos[branch].refs["main"]
    pulled = tmp_path / "work/cache/models--tester--mvtec-hazelnut-print/snapshots"
    weights = next(pulled.glob("*/model.safetensors")).read_bytes()
    assert weights == (tmp_path / "work/out/mvtec/hazelnut/print/model.safetensors").read_bytes()
    assert ZOO_FILE.read_bytes() == shipped


def test_it_does_not_run_against_a_hub_that_nobody_named(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    done = call(tmp_path, {})
    assert done.returncode == 2
    assert "HF_ENDPOINT: must name a hub for rehearsals" in done.stderr
    assert list(tmp_path.iterdir()) == []

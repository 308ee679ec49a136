"""benchmarks/gpu.py without a GPU: its command line, its table, and a dry run of every line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import defectgen

ROOT = Path(defectgen.__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks lie in the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import gpu, gpu_measure, gpu_table  # noqa: E402


def test_the_command_line():
    given = gpu.arguments(["--device", "cuda:1", "--only", "ops", "sampling", "--repeats", "3"])
    assert (given.device, given.only, given.repeats) == ("cuda:1", ["ops", "sampling"], 3)
    assert gpu.arguments([]).only == gpu.PARTS
    with pytest.raises(SystemExit):
        gpu.arguments(["--only", "everything"])


def test_names_of_devices_become_names_of_files():
    assert gpu_measure.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


@pytest.fixture
def raw():
    training = {"s_per_kimg": 3.2, "phases": {"G": 2.0, "R1": 1.2}, "peak_gb": 5.0}
    return {
        "commit": "abc",
        "tiny": False,
        "machine": {"device": "A GPU", "driver": "1.2", "torch": "2.13.0"},
        "copy_gb_s": 1000.0,
        "ops": {"bf16": {"bias_act": {"fused": 850.0, "reference": 200.0, "seconds": 1.0}}},
        "sampling": {"fused, bf16": 1900.0, "reference, bf16": 700.0},
        "backbone": {"fused, bf16": {**training, "skipped_steps": 2}},
        "defect": {"fused, bf16": {**training, "skipped_steps": 0}},
        "compiled": {"phases": {"G": 4.0}},
    }


def test_the_table_sets_targets_beside_what_was_measured(raw):
    lines = {line["work"]: line for line in gpu_table.lines_of(raw)}
    assert [line["verdict"] for line in lines.values()] == [
        *("pass", "FAIL", ""),  # operator, sampling, sampling by the reference
        *("FAIL", "pass"),  # backbone: time, memory
        *("pass", "pass", ""),  # defect: the same; compiled
    ]
    assert "85%" in lines["bias_act, bf16"]["measured"]
    assert (
        "2 steps skipped" in lines["backbone training, 256 px, batch 16: fused, bf16"]["measured"]
    )
    text = gpu_table.render(list(lines.values()), raw)
    assert "A GPU" in text
    assert all(line["work"] in text for line in lines.values())


@pytest.mark.slow
def test_a_dry_run_measures_every_line(tmp_path, capsys):
    target = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--tiny", "--json", str(target)]) == 0
    raw = json.loads(target.read_text())
    assert capsys.readouterr().out.count("\n| ") == len(raw["lines"]) + 1
    assert set(raw["ops"]) == {"bf16", "fp16", "fp32"}
    for work in raw["ops"]["bf16"].values():
        assert set(work) == {"seconds", "fused", "reference", "compiled"}
    assert len(raw["sampling"]) == 7
    for stage, phases in {"backbone": 4, "defect": 6}.items():
        assert len(raw[stage]["fused, bf16"]["phases"]) == phases
    assert set(raw["compiled"]["phases"]) == {"G", "D"}

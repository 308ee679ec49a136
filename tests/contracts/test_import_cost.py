"""Importing costs nothing and does nothing; each probe runs in a Python of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import defectgen

ROOT = Path(defectgen.__file__).parents[1]

HEAVY = ("torch", "numpy", "PIL", "safetensors", "huggingface_hub", "einops", "tqdm")
CPU_SECONDS = 0.1

# One line of JSON on stdout; whatever the statement itself prints comes before it.
PROBE = """
import json, sys, time
start = time.process_time()
try:
    exec({statement!r}, {{}})
except SystemExit as stop:
    code = stop.code or 0
else:
    code = None
seconds = time.process_time() - start
top = sorted({{name.partition(".")[0] for name in sys.modules}})
print()
print(json.dumps(dict(seconds=seconds, modules=top, exit=code)))
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    # Where this package lies is the first place that `python -c` looks at, installed or not.
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def probe(statement: str) -> dict:
    done = python(PROBE.format(statement=statement))
    printed, _, last = done.stdout.rstrip("\n").rpartition("\n")
    return json.loads(last) | {"printed": printed.strip() + done.stderr.strip()}


def heavy(result: dict) -> list[str]:
    return [name for name in HEAVY if name in result["modules"]]


def cli(*arguments: str) -> str:
    return (
        f"import sys; sys.argv = {['defectgen', *arguments]!r}; "
        "from defectgen.cli import main; sys.exit(main())"
    )


def test_import_loads_nothing_heavy_and_prints_nothing():
    result = probe("import defectgen; defectgen.__version__; dir(defectgen)")
    assert heavy(result) == []
    assert result["printed"] == ""


def test_import_is_fast():
    best = min(probe("import defectgen")["seconds"] for _ in range(3))
    assert best < CPU_SECONDS


def test_errors_are_importable_without_anything_heavy():
    assert heavy(probe("from defectgen import ConfigError, DataWarning")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("demo", "--help"),
        ("train-backbone", "--help"),
        ("fit", "--help"),
        ("sample", "--help"),
        ("info", "--help"),
        ("data", "--help"),
        ("kernels", "--help"),
    ],
    ids=" ".join,
)
def test_help_answers_without_torch(arguments):
    result = probe(cli(*arguments))
    assert result["exit"] == 0
    assert "usage" in result["printed"].lower()
    assert heavy(result) == []


def test_the_probe_sees_a_heavy_module():
    assert heavy(probe("import numpy")) == ["numpy"]


def test_the_probe_sees_a_slow_import_and_a_print():
    slow = "import time\nwhile time.process_time() < 0.3: pass\nprint('hello')"
    result = probe(slow)
    assert result["seconds"] > CPU_SECONDS
    assert result["printed"] == "hello"


# Everything that a module could do to the process while it is being imported.
BEHAVIOR = """
import contextlib, io, json, os, pkgutil, sys, warnings
import numpy, torch, PIL.Image, safetensors.torch, tqdm.auto
def state():
    return dict(
        environment=dict(os.environ),
        threads=torch.get_num_threads(),
        torch_random=torch.get_rng_state().tolist(),
        numpy_random=numpy.random.get_state()[1].tolist(),
        dtype=str(torch.get_default_dtype()),
        grad=torch.is_grad_enabled(),
        filters=len(warnings.filters),
        pixels=PIL.Image.MAX_IMAGE_PIXELS,
        cuda=torch.cuda.is_initialized(),
    )
import defectgen
before, out = state(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    names = [m.name for m in pkgutil.walk_packages(defectgen.__path__, "defectgen.")
             if not m.name.endswith("__main__")]
    for name in names:
        __import__(name)
    {extra}
after = state()
changed = sorted(key for key in before if before[key] != after[key])
print(json.dumps(dict(modules=names, changed=changed, printed=out.getvalue())))
"""


def behavior(extra: str) -> dict:
    return json.loads(python(BEHAVIOR.replace("{extra}", extra)).stdout)


def test_no_module_does_anything_when_imported():
    result = behavior("pass")
    assert "defectgen.synthesizer" in result["modules"]
    assert result["changed"] == []
    assert result["printed"] == ""


def test_the_behavior_check_can_fail():
    result = behavior("torch.manual_seed(1); os.environ['DEFECTGEN_X'] = '1'; print('hello')")
    assert result["changed"] == ["environment", "torch_random"]
    assert result["printed"] == "hello\n"

"""House rules that a machine can check, each with a proof that the check can fail."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import defectgen

PACKAGE = Path(defectgen.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())

FILE_LINES, FUNCTION_LINES = 300, 70
BANNED_NAMES = {"utils.py", "util.py", "common.py", "misc.py", "helpers.py"}
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def too_long_functions(tree: ast.Module) -> list[str]:
    return [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 >= FUNCTION_LINES
    ]


def imported(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield every (module, names) that the tree imports anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]


def unsafe_loads(tree: ast.Module) -> list[str]:
    found = [m for m, _ in imported(tree) if m.partition(".")[0] in UNSAFE_MODULES]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        call = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if call == "torch.load" and given.get("weights_only") != "True":
            found.append(f"line {node.lineno}: torch.load without weights_only=True")
        if call in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            found.append(f"line {node.lineno}: numpy.load with allow_pickle")
    return found


def unsorted_all(tree: ast.Module) -> list[str]:
    """Return ``__all__`` where it is not in the order of the linter: CONSTANTS, Classes, rest."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            order = sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
            return [] if names == order and len(set(names)) == len(names) else names
    return []


def roundabout_imports(tree: ast.Module) -> list[str]:
    """Names taken from the package root inside the package: the layer check cannot see these."""
    return [
        name
        for module, names in imported(tree)
        if module == "defectgen"
        for name in names
        if name != "__version__"
        and not (PACKAGE / name).with_suffix(".py").exists()
        and not (PACKAGE / name).is_dir()
    ]


def tree_lines(readme: str) -> list[str]:
    """First words of the lines of the README's tree block, which begins with ``defectgen/``."""
    block = re.search(r"^```[a-z]*\ndefectgen/\n(.*?)^```", readme, re.M | re.S)
    return [line.split()[0] for line in block[1].splitlines() if line.strip()] if block else []


@MODULES
def test_file_is_short_and_named_for_one_thing(path):
    assert path.name not in BANNED_NAMES
    assert len(path.read_text(encoding="utf-8").splitlines()) < FILE_LINES
    assert too_long_functions(ast.parse(path.read_text(encoding="utf-8"))) == []


@MODULES
def test_file_loads_nothing_that_can_run_code(path):
    assert unsafe_loads(ast.parse(path.read_text(encoding="utf-8"))) == []


@MODULES
def test_file_says_its_imports_plainly(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert unsorted_all(tree) == []
    assert path.name == "__init__.py" or roundabout_imports(tree) == []


def test_readme_names_every_file_of_the_package_and_no_other():
    named = tree_lines((ROOT / "README.md").read_text(encoding="utf-8"))
    there = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", ".typed", ".h", ".cpp", ".cu", ".cuh"}
    }
    files = [name for name in named if not name.endswith("/")]
    folders = [name for name in named if name.endswith("/")]
    assert sorted(files) == sorted(there)
    assert [name for name in folders if not (PACKAGE / name).is_dir()] == []


def test_no_tests_and_no_weights_of_unknown_kind_inside_the_package():
    suffixes = {
        p.suffix for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert not suffixes & {".pkl", ".pt", ".pth", ".ckpt", ".npy", ".npz"}
    assert [p for p in FILES if p.name.startswith("test_")] == []


def test_the_checks_can_fail():
    long = "def f():\n" + "    x = 1\n" * FUNCTION_LINES
    assert too_long_functions(ast.parse(long)) == [f"f: {FUNCTION_LINES + 1} lines"]
    assert unsafe_loads(ast.parse("import pickle")) == ["pickle"]
    assert unsafe_loads(ast.parse("def f():\n    from joblib.x import y")) == ["joblib.x"]
    assert unsafe_loads(ast.parse("torch.load(p)")) != []
    assert unsafe_loads(ast.parse("torch.load(p, weights_only=False)")) != []
    assert unsafe_loads(ast.parse("torch.load(p, weights_only=True)")) == []
    assert unsafe_loads(ast.parse("np.load(p, allow_pickle=True)")) != []
    assert unsorted_all(ast.parse("__all__ = ['b', 'a']")) == ["b", "a"]
    assert unsorted_all(ast.parse("__all__ = ['a', 'a']")) == ["a", "a"]
    assert unsorted_all(ast.parse("__all__ = ['LIMIT', 'Batch', 'run']")) == []
    assert roundabout_imports(ast.parse("from defectgen import Backbone")) == ["Backbone"]
    assert roundabout_imports(ast.parse("from defectgen import __version__, errors")) == []
    assert tree_lines("```\ndefectgen/\n  a.py  one\n  ops/  two\n```\n") == ["a.py", "ops/"]

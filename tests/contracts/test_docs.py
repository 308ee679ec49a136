"""What README and docs say exists: links, options, names, members, and code that parses."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import defectgen

ROOT = Path(defectgen.__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EACH = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
COMMANDS = (
    "demo", "train-backbone", "fit", "sample", "evaluate", "info", "push", "zoo", "data", "kernels"
)  # fmt: skip
ACTIONS = {"zoo": ("list", "show", "train", "publish")}  # with options of their own

if not (ROOT / "docs").is_dir():
    pytest.skip("the docs lie in the repository only", allow_module_level=True)


def links(text: str) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S))
    return [link for link in found if not re.match(r"[a-z]+:|#", link)]


def snippets(text: str) -> list[str]:
    return [textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)```", text, re.S)]


def blocks(text: str) -> dict[str, list[str]]:
    """Map each ``::: path`` to the members that its options list."""
    found = {}
    for part in re.split(r"^::: ", text, flags=re.M)[1:]:
        members = re.search(r"members: \[(.*?)\]", part)
        found[part.split()[0]] = re.split(r",\s*", members[1]) if members else []
    return found


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", text)) - {"--help"}


@EACH
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    missing = [to for to in links(text) if not (page.parent / to.partition("#")[0]).exists()]
    assert missing == []


@EACH
def test_code_parses_and_its_imports_exist(page):
    for code in snippets(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("defectgen"):
                module = importlib.import_module(str(node.module))
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_every_public_name_has_a_place_in_the_reference():
    there = {}
    for page in (ROOT / "docs" / "api").glob("*.md"):
        there |= blocks(page.read_text(encoding="utf-8"))
    classes = set(defectgen.__all__) - {"__version__"}
    assert {path.rpartition(".")[2] for path in there} >= classes
    for path, members in there.items():
        owner = pkgutil.resolve_name(path)
        assert [name for name in members if not hasattr(owner, name)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_the_command_has_the_options_of_the_command(command):
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = re.search(rf"^## defectgen {command}$(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert section is not None
    program = "import sys; from defectgen.cli import main; main(sys.argv[1:])"
    found = set()
    for words in [[command], *([command, action] for action in ACTIONS.get(command, ()))]:
        shown = subprocess.run(
            [sys.executable, "-c", program, *words, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert shown.returncode == 0, shown.stderr
        found |= options(shown.stdout)
    assert options(section[1]) == found


def test_the_helpers_find_what_they_look_for():
    assert links("[a](b.md#c) [d](https://e) ![f](g.png) ```[h](i)```") == ["b.md#c", "g.png"]
    assert snippets("x\n```python\n  a = 1\n```\n") == ["a = 1\n"]
    assert blocks("::: a.B\n    options:\n      members: [c, d]\n::: e\n") == {
        "a.B": ["c", "d"],
        "e": [],
    }
    assert options("`--out DIR`, --batch-size, a --- b, --help") == {"--out", "--batch-size"}

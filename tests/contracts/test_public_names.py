"""The public names are frozen: adding or removing one is a decision, taken here as well."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

import pytest

import defectgen

FROZEN = {
    "Backbone",
    "ConfigError",
    "DataWarning",
    "DefectAwareResBlock",
    "DefectBatch",
    "DefectGenError",
    "DefectGenWarning",
    "DefectSynthesizer",
    "Folder",
    "ImageError",
    "KernelBuildError",
    "KernelWarning",
    "MVTecAD",
    "MaskError",
    "NotFittedError",
    "SyntheticDefects",
    "TrainingError",
    "TrainingWarning",
    "VisA",
    "WeightsError",
    "__version__",
}
INIT = Path(defectgen.__file__)


def test_the_list_is_frozen():
    assert set(defectgen.__all__) == FROZEN
    assert len(defectgen.__all__) == len(FROZEN)


@pytest.mark.parametrize("name", sorted(FROZEN - {"__version__"}))
def test_every_name_resolves_to_the_class_of_that_name(name):
    value = getattr(defectgen, name)
    assert isinstance(value, type)
    assert value.__name__ == name
    assert value.__doc__
    assert getattr(defectgen, name) is value


def test_star_import_gives_exactly_these_names():
    space: dict[str, object] = {}
    exec("from defectgen import *", space)
    assert set(space) - {"__builtins__"} == FROZEN


def test_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="no attribute 'Backbones'"):
        defectgen.Backbones  # noqa: B018


def test_dir_lists_names_that_are_not_loaded_yet():
    assert set(dir(defectgen)) >= FROZEN


def test_type_checkers_see_the_names_where_they_are_loaded_from():
    """The imports under TYPE_CHECKING and the lazy ones are two lists of one thing."""
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    guarded = [n for n in tree.body if isinstance(n, ast.If)]
    assert len(guarded) == 1
    seen = {
        alias.name: node.module
        for node in guarded[0].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    loaded = {n: getattr(defectgen, n).__module__ for n in FROZEN - {"__version__"}}
    assert seen == loaded


def test_warnings_and_errors_have_one_root_each():
    for name in FROZEN:
        if name.endswith("Error"):
            assert issubclass(getattr(defectgen, name), defectgen.DefectGenError)
        if name.endswith("Warning"):
            assert issubclass(getattr(defectgen, name), defectgen.DefectGenWarning)
    assert issubclass(defectgen.DefectGenWarning, UserWarning)


def test_version_is_three_numbers_and_has_an_entry_or_unreleased_in_the_changelog():
    assert re.fullmatch(r"\d+\.\d+\.\d+", defectgen.__version__)
    changelog = INIT.parents[1] / "CHANGELOG.md"
    if not changelog.exists():
        pytest.skip("an installed package has no changelog beside it")
    headings = re.findall(r"^## \[?([^\]\s]+)", changelog.read_text(encoding="utf-8"), re.M)
    assert headings[0] == "Unreleased"
    assert len(headings) == 1 or headings[1] == defectgen.__version__


def test_logger_is_silent_until_the_application_wants_it():
    handlers = logging.getLogger("defectgen").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := ../shared/data

# Also reaches isolated build environments, which a `-c` on the command line does not.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint docs clean

demo: $(VENV)/.dev
	$(BIN)/defectgen demo

# `make test ARGS=--runslow` or `ARGS='-k mask'` passes arguments on. A test takes one core, so as many
# files run at once as there are cores, or up to four; ARGS='-n0' runs one after the other.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n auto --maxprocesses=4 --dist=loadfile $(if $(wildcard $(DATA)),--data=$(DATA)) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist out site .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/pip install -q -e '.[docs]'
	touch $@

# `make help` explains each target. What the targets run can be run by hand too: see the README.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Prepends the environment, so that dvc.yaml's `python` is its own. No shell stays between, which signals would end alone.
IN_VENV := exec env PATH="$(CURDIR)/$(BIN):$$PATH"
RUNTIME := $(VENV)/.requirements.installed
PROJECT := $(VENV)/.project.installed
EXTRAS := $(VENV)/.requirements-extras.installed
TOOLS := $(VENV)/.requirements-dev.installed
# All lock files fit into one environment: each is pinned to what all of them together were resolved to.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"
TOGETHER := .cache/together.lock
# A process per test file, because its tests share fixtures; tests/conftest.py puts the files in order.
TEST := python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
# Two installers must not write into one environment at once.
.NOTPARALLEL:
.PHONY: help run app extras test quick check format lock

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

run: $(PROJECT)  ## set up the environment once, then run the pipeline (dvc repro)
	$(IN_VENV) dvc repro

extras: $(EXTRAS) $(PROJECT)  ## set up the environment with what the page and the exports need

app: $(EXTRAS) $(PROJECT)  ## the same, then open the page that classifies photos
	$(IN_VENV) darkroom app

test: $(TOOLS) $(PROJECT)  ## set up the environment and the test tools once, then run all tests
	$(IN_VENV) $(TEST)

quick: $(TOOLS) $(PROJECT)  ## the same, but leave out the slow tests
	$(IN_VENV) $(TEST) -m "not slow"

check: $(TOOLS)  ## check format, lint and types; changes nothing
	$(IN_VENV) ruff format --check .
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy

format: $(TOOLS)  ## format the code and sort the imports
	$(IN_VENV) ruff check --fix --exit-zero .
	$(IN_VENV) ruff format .

lock:  ## pin anew what pyproject.toml asks for (needs uv)
	@mkdir -p .cache && cp requirements.lock $(TOGETHER)
	$(COMPILE) pyproject.toml --group extras --group dev --output-file $(TOGETHER)
	$(COMPILE) pyproject.toml --constraints $(TOGETHER) --output-file requirements.lock
	$(COMPILE) --group extras --constraints $(TOGETHER) --output-file requirements-extras.lock
	$(COMPILE) --group dev --constraints $(TOGETHER) --output-file requirements-dev.lock
	@rm $(TOGETHER)

# uv where it is on the PATH, else pip; both refuse a package whose hash is not in the lock file.
define install
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --require-hashes --requirements $(1); \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(1); \
	fi
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
		ok or sys.exit("Darkroom needs Python 3.11, 3.12 or 3.13, got %d.%d; name one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --seed --python "$$(command -v $(PYTHON))" $(VENV); \
		else $(PYTHON) -m venv $(VENV); fi || { rm -rf $(VENV); exit 1; }

$(RUNTIME): requirements.lock | $(BIN)/python
	@echo "installing requirements.lock into $(VENV)"
	$(call install,requirements.lock)
	@touch $@

# The command `darkroom`, which runs the code where it lies. Its build needs setuptools alone, which is in the lock file.
$(PROJECT): pyproject.toml $(RUNTIME)
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	fi
	@touch $@

$(EXTRAS): requirements-extras.lock $(RUNTIME)
	@echo "installing requirements-extras.lock into $(VENV)"
	$(call install,requirements-extras.lock)
	@touch $@

$(TOOLS): requirements-dev.lock $(EXTRAS)
	@echo "installing requirements-dev.lock into $(VENV)"
	$(call install,requirements-dev.lock)
	@touch $@

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
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
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

lock: | $(UV)  ## pin the dependencies of pyproject.toml again, in the lock files
	@mkdir -p .cache && cp requirements.lock $(TOGETHER)
	$(COMPILE) pyproject.toml --group extras --group dev --output-file $(TOGETHER)
	$(COMPILE) pyproject.toml --constraints $(TOGETHER) --output-file requirements.lock
	$(COMPILE) --group extras --constraints $(TOGETHER) --output-file requirements-extras.lock
	$(COMPILE) --group dev --constraints $(TOGETHER) --output-file requirements-dev.lock
	$(COMPILE) --group installer --output-file requirements-installer.lock
	@rm $(TOGETHER)

# uv takes a fraction of pip's time; pip serves where uv cannot (no wheel for this machine, an index that only pip.conf
# names). Both reject a package whose hash is not in the lock file.
UV := $(shell command -v uv || echo $(BIN)/uv)
define install
	@$(UV) pip install --quiet --python $(BIN)/python $(1) 2>$(VENV)/.uv.log || { \
		echo "installing with pip, because uv failed (see $(VENV)/.uv.log)"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check $(1); \
	}
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
		ok or sys.exit("Darkroom needs Python 3.11, 3.12 or 3.13, got %d.%d; name one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@if command -v uv >/dev/null; then uv venv --quiet --seed --python "$$(command -v $(PYTHON))" $(VENV); \
		else $(PYTHON) -m venv $(VENV); fi || { rm -rf $(VENV); exit 1; }

$(BIN)/uv: requirements-installer.lock | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $< || true
	@touch $@

$(RUNTIME): requirements.lock | $(BIN)/python $(UV)
	@echo "installing requirements.lock into $(VENV)"
	$(call install,--require-hashes --requirement requirements.lock)
	@touch $@

# The command `darkroom`, which runs the code where it lies. Its build needs setuptools alone, which is in the lock file.
$(PROJECT): pyproject.toml $(RUNTIME)
	$(call install,--no-deps --no-build-isolation --editable .)
	@touch $@

$(EXTRAS): requirements-extras.lock $(RUNTIME)
	@echo "installing requirements-extras.lock into $(VENV)"
	$(call install,--require-hashes --requirement requirements-extras.lock)
	@touch $@

$(TOOLS): requirements-dev.lock $(EXTRAS)
	@echo "installing requirements-dev.lock into $(VENV)"
	$(call install,--require-hashes --requirement requirements-dev.lock)
	@touch $@

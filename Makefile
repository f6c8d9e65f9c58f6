# `make help` lists the targets. docs/index.md shows how to run the same commands by hand.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Puts the environment first on the PATH, so that dvc.yaml's `python` is the environment's. With exec, signals
# reach the command.
IN_VENV := exec env PATH="$(CURDIR)/$(BIN):$$PATH"
RUNTIME := $(VENV)/.requirements.installed
PROJECT := $(VENV)/.project.installed
EXTRAS := $(VENV)/.requirements-extras.installed
TOOLS := $(VENV)/.requirements-dev.installed
# Installs faster than pip: the user's uv, or one outside the PATH of the environment. It trusts the certificates of
# the system, which may include those of a company, instead of its own list.
UV := UV_SYSTEM_CERTS="$${UV_SYSTEM_CERTS:-true}" "$$(command -v uv || echo $(VENV)/.uv/bin/uv)"
INSTALLER := $(VENV)/.uv.installed
# All lock files but the installer's can be installed into one environment: each one pins versions that were resolved
# for all together.
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"
TOGETHER := .cache/together.lock
# Each process takes whole test files, because their tests share fixtures; tests/conftest.py orders the files.
TEST := python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
# Installers must not write into the environment in parallel.
.NOTPARALLEL:
.PHONY: help run app extras test quick check format docs figures lock

help:  ## list the targets of this Makefile
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

run: $(PROJECT)  ## set up the environment once, then run the pipeline (dvc repro)
	$(IN_VENV) dvc repro

extras: $(EXTRAS) $(PROJECT)  ## set up the environment, including packages for the page and the exports

app: $(EXTRAS) $(PROJECT)  ## set up the extras once, then serve the page that classifies photos
	$(IN_VENV) darkroom app

test: $(TOOLS) $(PROJECT)  ## set up the environment and the test tools once, then run all tests
	$(IN_VENV) $(TEST)

quick: $(TOOLS) $(PROJECT)  ## run all tests but the slow ones
	$(IN_VENV) $(TEST) -m "not slow"

check: $(TOOLS)  ## check format, lint and types without changing files
	$(IN_VENV) ruff format --check .
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy

format: $(TOOLS)  ## format the code and sort the imports
	$(IN_VENV) ruff check --fix --exit-zero .
	$(IN_VENV) ruff format .

docs: $(TOOLS)  ## build the manual as a site, in site/, and check its links
	$(IN_VENV) mkdocs build --strict
	@echo "to read it at http://127.0.0.1:8000: python3 -m http.server --directory site --bind 127.0.0.1"

figures: $(TOOLS) $(PROJECT)  ## draw the manual's figures again, in docs/figures/ (needs chromium; about ten minutes)
	$(IN_VENV) python -m tests.figures

lock: | $(INSTALLER)  ## update the lock files from pyproject.toml
	@mkdir -p .cache && cp requirements.lock $(TOGETHER)
	$(COMPILE) pyproject.toml --group extras --group dev --output-file $(TOGETHER)
	$(COMPILE) pyproject.toml --constraints $(TOGETHER) --output-file requirements.lock
	$(COMPILE) --group extras --constraints $(TOGETHER) --output-file requirements-extras.lock
	$(COMPILE) --group dev --constraints $(TOGETHER) --output-file requirements-dev.lock
	$(COMPILE) --group installer --output-file requirements-installer.lock
	@rm $(TOGETHER)

# Falls back to pip if uv fails: no wheel for this machine, or an index that only pip.conf names. Both reject packages
# whose hash is not in the lock file. Bytecode is compiled once here, not in the first process that needs a module.
define install
	@$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python $(1) 2>$(VENV)/.uv.log || { \
		tail -n 3 $(VENV)/.uv.log; \
		echo "uv failed; installing with pip, which takes longer"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check $(1); \
	}
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
		ok or sys.exit("Darkroom needs Python 3.11, 3.12 or 3.13, got %d.%d; choose one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@uv venv --quiet --seed --python "$$(command -v $(PYTHON))" $(VENV) 2>/dev/null || \
		$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

$(INSTALLER): requirements-installer.lock | $(BIN)/python
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--target $(VENV)/.uv --require-hashes --requirement $< || echo "uv cannot be installed"
	@touch $@

$(RUNTIME): requirements.lock | $(BIN)/python $(INSTALLER)
	@echo "installing requirements.lock into $(VENV)"
	$(call install,--require-hashes --requirement requirements.lock)
	@touch $@

# An editable install of the command `darkroom`. Its build only needs setuptools, which is in the lock file.
$(PROJECT): pyproject.toml darkroom/version.py $(RUNTIME)
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

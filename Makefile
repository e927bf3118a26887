# `make demo` and `make test` do everything on a fresh machine with Python 3.8 or newer and make.

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
TORCH_SPEC ?= torch==2.13.0
PIP_OPTIONS ?=
EXTRAS ?= tensorflow,openvino,report,dev

BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
TORCH_STAMP := $(VENV)/.torch

.PHONY: help setup demo test lint clean

help:
	@echo "make demo    the whole path in minutes on this machine, ending in a table and demo/report.md"
	@echo "make test    the tests"
	@echo "make setup   prepare $(VENV) only (TORCH=1 adds PyTorch's CPU build)"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make clean   remove $(VENV) and what the demo made"

setup: $(STAMP) $(if $(TORCH),$(TORCH_STAMP))

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 8))' || \
	  { echo "error: Python 3.8 or newer is needed. Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 4; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: the venv module is missing. Try: apt install python3-venv"; exit 4; }

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) -e '.[$(EXTRAS)]'
	@touch $@

# The plain name `torch` brings gigabytes of CUDA on Linux; TORCH_SPEC names a build for the CPU.
$(TORCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) '$(TORCH_SPEC)' '.[torch]'
	$(BIN)/python -m pip install --quiet $(PIP_OPTIONS) --no-deps -e .
	@touch $@

demo: setup
	$(BIN)/optimize demo

test: setup
	$(BIN)/python -m pytest -m 'not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo build dist *.egg-info

# Everything from a fresh machine with GNU make and Python 3.8 to 3.13: `make demo`, `make test`.
#
#   PYTHON=python3.11     the Python that makes the environment
#   VENV=.venv            where the environment is
#   TORCH=1               adds PyTorch's CPU build
#   TRT=1                 adds what the TensorRT tests need without a GPU: a C compiler must be there
#   PIP_OPTIONS='-c constraints/jetpack5.txt'
#   WORKERS=2             test files run side by side; each process may hold a gigabyte of TensorFlow

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= tensorflow,openvino,report,dev
# install-jetson.sh writes what this board's packages are held to.
PIP_OPTIONS ?= $(addprefix -c ,$(wildcard $(VENV)/constraints.txt))
PYTEST_OPTIONS ?= -m 'not slow'
WORKERS ?= 2
TORCH ?=
TRT ?=
TORCH_SPEC ?= torch==2.13.0

BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH_READY := $(VENV)/.torch
TRT_READY := $(VENV)/.tensorrt

# On Linux the plain version brings gigabytes of CUDA. Whoever gives a TORCH_SPEC gets exactly that.
ifeq ($(origin TORCH_SPEC)-$(shell uname -s),file-Linux)
TORCH_SPEC := $(TORCH_SPEC)+cpu
endif
# A Python that was asked for by name is the one to use, even where $(VENV) has another; the default keeps what is there.
ASKED := $(if $(filter file,$(origin PYTHON)),,yes)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-aarch64 test-device bench-quantisers bench-peers docs lint clean

help:
	@echo "make demo      the whole path in minutes on this machine, ending in a table and a report"
	@echo "make test      the tests"
	@echo "make setup     only prepare $(VENV) (TORCH=1 adds PyTorch's CPU build, PYTHON=python3.11 chooses the Python)"
	@echo "make lint      ruff, mypy and import-linter"
	@echo "make docs      write docs/cli.md, the reference of the command line"
	@echo "make test-all  all lanes on all Pythons of this machine, slow tests too: more than an hour"
	@echo "make test-aarch64  the project on emulated aarch64, as root on Debian or Ubuntu: 10 minutes, 25 on a busy machine"
	@echo "make test-device  on a Jetson or another NVIDIA machine: tries CUDA and TensorRT, writes device-report.json"
	@echo "make bench-quantisers  our INT8 beside ONNX Runtime's, NNCF and ModelOpt: an hour or more, on a quiet machine; TORCH=1 for all models"
	@echo "make bench-peers  our loop and engines beside benchmark_app, ONNX Runtime, TensorFlow and PyTorch: half an hour"
	@echo "make clean     remove the environments and what the builds and the demo made"

setup: $(READY) $(if $(filter-out 0,$(TORCH)),$(TORCH_READY)) $(if $(filter-out 0,$(TRT)),$(TRT_READY))

# The stamp comes last: an interrupted run is taken up again, and an environment without pip is made anew.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 8))' || { \
	  echo "error: '$(PYTHON)' is missing or older than Python 3.8. Name another: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' has no venv module. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@rm -f $(READY)
	@have=$$($(BIN)/python -c 'import sys, pip; print(sys.version_info[:2])' 2>/dev/null); \
	want=$$($(PYTHON) -c 'import sys; print(sys.version_info[:2])'); \
	if [ -z "$$have" ] || { [ -n "$(ASKED)" ] && [ "$$have" != "$$want" ]; }; then \
	  echo "Making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); fi
	@echo "Installing into $(VENV): $(EXTRAS) (the first time about a gigabyte to load, up to three on the disk, and a minute or more)"
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq $(PIP_OPTIONS) -e '.[$(EXTRAS)]' || { \
	  echo "error: the installation stopped; the same command takes it up again. TensorFlow exists for Python 3.8 to 3.13," \
	    "this is $$($(BIN)/python --version): name another with PYTHON=python3.11." \
	    "All of pip's words: $(BIN)/python -m pip install $(PIP_OPTIONS) -e '.[$(EXTRAS)]'" >&2; exit 1; }
	@touch $@

$(TORCH_READY): $(READY)
	@echo "Installing into $(VENV): $(TORCH_SPEC)"
	@$(BIN)/python -m pip install -qq $(PIP_OPTIONS) '$(TORCH_SPEC)' -e '.[torch]' || { \
	  echo "error: no $(TORCH_SPEC) for $$($(BIN)/python --version) where pip looks. The CPU builds are in PyTorch's own index:" \
	    "give its address (see PyTorch's installation page) as PIP_EXTRA_INDEX_URL=... make setup TORCH=1," \
	    "or name another version: TORCH_SPEC=torch==2.4.1+cpu on Python 3.8; TORCH_SPEC=torch brings CUDA, gigabytes" >&2; exit 1; }
	@touch $@

# pycuda over a stand-in for the driver, and NVIDIA's bindings over a stand-in for libnvinfer: tests/doubles/README.md.
$(TRT_READY): $(READY)
	@echo "Preparing the TensorRT tests for $(VENV)"
	@$(BIN)/python -m tests.doubles.prepare || { \
	  echo "error: the TensorRT tests cannot be prepared; without TRT=1 they skip" >&2; exit 1; }
	@touch $@

demo: setup
	$(BIN)/optimize demo

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_OPTIONS)

test-all:
	bash .ci/full

# debootstrap and QEMU; skipped with the reason where they or root are missing.
test-aarch64:
	PYTHON=$(PYTHON) bash .ci/aarch64

# Installs nothing: on a Jetson TensorRT and pycuda are where install-jetson.sh has put them. See docs/device-tests.md.
DEVICE_OPTIONS ?=
test-device:
	@python=$(BIN)/python; [ -x "$$python" ] || python=$(PYTHON); exec "$$python" tests/device $(DEVICE_OPTIONS)

# The peers get environments of their own in the user's cache, gigabytes; QUANTISERS_OPTIONS=--quick only tries it.
QUANTISERS_OPTIONS ?=
bench-quantisers: setup
	$(BIN)/python -m bench.peers.quantisers $(QUANTISERS_OPTIONS)

# TORCH=1 adds PyTorch's row.
PEERS_OPTIONS ?=
bench-peers: setup
	$(BIN)/python -m bench.peers.speed $(PEERS_OPTIONS)

docs: setup
	$(BIN)/python -m optimize.cli.reference > docs/cli.md

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf demo optimize-demo

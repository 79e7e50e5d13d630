# Each target makes .venv first if it is missing or older than pyproject.toml and the lock files. .venv/ready has what
# runs and simulations need, .venv/dev also what checks and tests them.
PYTHON ?= python3
# Set to the address of an index of CPU-only PyTorch wheels to install torch from there.
TORCH_INDEX ?=
BIN := .venv/bin
QUIET := HF_HUB_OFFLINE=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 TOKENIZERS_PARALLELISM=false
QUIET += GOMP_SPINCOUNT=10000
PYTEST := $(QUIET) $(BIN)/python -m pytest
# Three workers on two cores: tests of real processes wait for much of their time.
SUITE := $(PYTEST) --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 10 --durations-min 1
INSTALL = $(PYTHON) locks/install.py .venv --lean --torch-index '$(TORCH_INDEX)'
UV := .venv/uv

.PHONY: demo test test-all soak check structure lock upgrade proto clean
demo: .venv/ready
	$(QUIET) $(BIN)/sotto simulate

test: .venv/dev
	$(SUITE) -m 'not soak and not slow'

test-all: .venv/dev
	$(SUITE) -m 'not soak'

soak: .venv/dev
	SOTTO_SOAK_KILLS=200 $(PYTEST) tests/client/vault/kills/test_process_kills.py
	$(PYTEST) --log-cli-level=INFO -m soak tests
	SOTTO_SOAK_FUZZ=10000 $(PYTEST) tests/fuzz

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) structure

structure: .venv/dev
	$(PYTEST) --noconftest tests/test_structure.py

# The stubs are made with the oldest grpcio that is supported: they refuse to run under an older one.
proto:
	$(PYTHON) -m venv .venv/proto
	.venv/proto/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.70.0 'setuptools<80'
	.venv/proto/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. client/channel/vault.proto

# The lock files hold their versions as long as pyproject.toml allows them; `upgrade` takes the newest that it allows.
lock: $(UV)
	$(UV)/bin/python locks/write.py

upgrade: $(UV)
	$(UV)/bin/python locks/write.py --upgrade
	$(MAKE) check test

$(UV): Makefile
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	touch $@

.venv/ready: pyproject.toml $(wildcard locks/*.txt) locks/install.py
	$(INSTALL) --editable server vault relay
	touch $@

.venv/dev: .venv/ready
	$(INSTALL) --no-project dev
	touch $@

clean:
	rm -rf .venv runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

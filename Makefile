# Each target makes .venv first if it is missing or older than pyproject.toml.
PYTHON ?= python3
# Set to the address of an index of CPU-only PyTorch wheels to install torch from there.
TORCH_INDEX ?=
BIN := .venv/bin
QUIET := HF_HUB_OFFLINE=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 TOKENIZERS_PARALLELISM=false
QUIET += GOMP_SPINCOUNT=10000

.PHONY: demo test soak check proto clean
demo: .venv/ready
	$(QUIET) $(BIN)/sotto simulate

test: .venv/ready
	$(QUIET) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not soak'

soak: .venv/ready
	$(QUIET) SOTTO_SOAK_KILLS=200 $(BIN)/python -m pytest tests/client/test_process_kills.py
	$(QUIET) $(BIN)/python -m pytest --log-cli-level=INFO -m soak tests
	$(QUIET) SOTTO_SOAK_FUZZ=10000 $(BIN)/python -m pytest tests/fuzz

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The stubs are made with the oldest grpcio that is supported: they refuse to run under an older one.
proto:
	$(PYTHON) -m venv .venv/proto
	.venv/proto/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.70.0 'setuptools<80'
	.venv/proto/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. client/vault.proto

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Sotto needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet --index-url $(TORCH_INDEX) -c constraints.txt torch)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

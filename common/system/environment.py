"""Defaults for environment variables of libraries: quiet and offline. Values that the user has set are kept."""

from __future__ import annotations

import os

_DEFAULTS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # OpenMP threads that wait should sleep soon: spinning threads slow down a busy machine.
    "GOMP_SPINCOUNT": "10000",
    # Products on a GPU are rounded the same way each time only with a workspace of this kind.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Otherwise MKL rounds the last rows of some products differently if it has two threads or more.
    "MKL_CBWR": "AUTO,STRICT",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "GRPC_VERBOSITY": "NONE",
}


def set_defaults() -> None:
    """Set the defaults. Call this before a library that reads them is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)

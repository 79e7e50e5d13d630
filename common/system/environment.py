"""Defaults for what libraries read from the environment: quiet and offline. What the user has set, stays."""

from __future__ import annotations

import os

_DEFAULTS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Threads that wait for long should sleep: spinning ones bring a busy machine to a crawl.
    "GOMP_SPINCOUNT": "10000",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "GRPC_VERBOSITY": "NONE",
}


def set_defaults() -> None:
    """Set them, before any library that reads them is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)

"""What the check of rows has found, kept from process to process: it takes minutes for a large model."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from common.untrusted import read_json

_log = logging.getLogger(__name__)


class RowsCache:
    """Results by what they depend on.

    Args:
        path: a file that only this user can write, which need not exist; None keeps them in this process alone.
        read_only: do not write the file.
    """

    # Vaults of one simulation share a model, and what is known of it.
    _known: dict[str, dict[int, int]] = {}

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only

    def get(self, key: str, check: Callable[[], dict[int, int]]) -> dict[int, int]:
        """The result for a key, from the cache or from the check.

        Args:
            key: of `rows_key`.
            check: makes the result; what it raises is not kept.
        """
        if key not in self._known:
            kept = self._read()
            if key not in kept:
                kept[key] = check()
                try:
                    self._write(kept)
                except OSError as error:  # a full disk, for instance; it costs the check once more
                    _log.warning("%s: the check of rows could not be stored: %s", self._path, error.strerror)
            self._known[key] = kept[key]
        return self._known[key]

    def _read(self) -> dict[str, dict[int, int]]:
        if self._path is None:
            return {}
        try:
            values = read_json(self._path.read_text(encoding="utf-8"))
            kept = {
                str(key): {int(length): int(rows) for length, rows in found.items()}
                for key, found in values.items()
            }
            if any(rows < 1 for found in kept.values() for rows in found.values()):
                raise ValueError("a micro-batch has at least one row")
            return kept
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # missing or damaged: the check is done again

    def _write(self, kept: dict[str, dict[int, int]]) -> None:
        if self._path is None or self._read_only:
            return
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(kept), encoding="utf-8")
        part.replace(self._path)


def rows_key(fingerprint: str, plan: str, device: torch.device, max_tokens: int, precision: torch.dtype) -> str:
    """What the rounding of a gradient can depend on, as text.

    Args:
        fingerprint: of the base model.
        plan: what of a plan the model, its layers and its examples follow from, and which rounds it has.
        device: on which it trains.
        max_tokens: padded tokens of a micro-batch.
        precision: of the matrix products.
    """
    if device.type == "cuda":
        processor = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        kernels = os.environ.get("MKL_CBWR", "")
        processor = f"{platform.processor()} {torch.backends.cpu.get_cpu_capability()} {kernels}"
    parts = (torch.__version__, processor, "one thread", max_tokens, precision, fingerprint, plan)
    return json.dumps([str(part) for part in parts])

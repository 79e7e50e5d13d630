"""Errors of training."""

from __future__ import annotations

import torch


class GuaranteeError(RuntimeError):
    """Training would not be what the accountant is told. Nothing is released."""


class OutOfMemoryError(GuaranteeError):
    """A micro-batch does not fit the memory, whichever records are drawn."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or Python says so; on a CPU, PyTorch raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)

"""What a worker process does: answer the pool's requests until the pool is gone."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt
import psutil
import torch

from client.vault.records.encoded import Unit
from client.vault.training.dp_sgd import ClippedSum, by_name
from client.vault.training.errors import GuaranteeError, OutOfMemoryError, is_out_of_memory
from client.vault.training.per_example import Parameters
from client.vault.workers.messages import serve
from client.vault.workers.worker import Rounding, Worker
from common.adapter.adapter import Adapter
from common.system.redaction import failure


class WorkerProcess:
    """What a worker process is asked for.

    Args:
        worker: computes.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._round = ExitStack()
        self._sum_of: ClippedSum | None = None
        self._parameters: Parameters = {}
        self._total: torch.Tensor | None = None

    def _verify(self) -> torch.dtype:
        return self._worker.verify()

    def _check_rows(self, precision: torch.dtype) -> dict[int, int]:
        return self._worker.check_rows(precision)

    def _memory(self, precision: torch.dtype) -> int:
        """Bytes that this process needs beside what it shares with the others."""
        self._worker.try_longest(precision)
        process = psutil.Process()
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(process.memory_full_info().uss + max(0, peak - process.memory_info().rss))

    def _settle(self, rounding: Rounding) -> str:
        self._worker.settle(rounding)
        return self._worker.digest()

    def _begin(self, adapter: Adapter, head_only: bool, clipping_norm: float) -> None:
        self._end()
        self._sum_of = self._round.enter_context(
            self._worker.round(adapter, head_only=head_only, clipping_norm=clipping_norm)
        )
        self._parameters = self._worker.model.trained_parameters(head_only=head_only)

    def _end(self) -> None:
        self._round.close()
        self._sum_of = self._total = None

    def _step(self, values: npt.NDArray[np.float32]) -> None:
        """Begin a sum for parameters of these values, one after another by name."""
        with torch.no_grad():
            for name, part in by_name(torch.from_numpy(values), self._parameters).items():
                self._parameters[name].copy_(part)
        self._total = torch.zeros(len(values), dtype=torch.int64)

    def _add(self, units: Sequence[Unit]) -> None:
        assert self._sum_of is not None
        assert self._total is not None
        self._total += self._sum_of(units).cpu()

    def _sum(self) -> npt.NDArray[np.int64]:
        assert self._total is not None
        return self._total.numpy()

    def _load(self, adapter: Adapter) -> None:
        self._end()
        self._worker.model.load(adapter)

    def _vectors(self, units: Sequence[Unit]) -> list[Unit]:
        return self._worker.vectors_here(units)


def run(worker: Worker, connection: Connection) -> None:
    """Serve in a process that was forked for this; never returns."""
    status = 1
    try:
        # What libraries print may hold the text of a record.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the vault, which ends its workers
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        serve(connection, WorkerProcess(worker), _described)
        status = 0
    finally:
        os._exit(status)


def _described(error: BaseException) -> tuple[str, str]:
    """The kind of an error, and a text without any value of a record."""
    if isinstance(error, GuaranteeError):
        return type(error).__name__, str(error)
    return (OutOfMemoryError if is_out_of_memory(error) else GuaranteeError).__name__, failure(error)

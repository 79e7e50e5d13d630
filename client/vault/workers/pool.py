"""Worker processes that compute the parts of one sum.

The units of a step are dealt to whoever is free, one micro-batch at a time. Sums are of integers, so that the
result has the same bits for any number of workers and in any order of their answers. If a worker dies, all are
forked again, and the step is computed again from the same sample; noise is added afterwards, by the vault.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import numpy as np
import torch

from client.vault.records.encoded import Unit
from client.vault.training.dp_sgd import ClippedSum
from client.vault.training.errors import GuaranteeError, OutOfMemoryError
from client.vault.training.micro_batches import portions
from client.vault.workers.messages import DONE
from client.vault.workers.server_handle import Model, WorkerServerHandle
from client.vault.workers.worker import Rounding
from common.adapter.adapter import Adapter
from common.model.model import LoraModel
from common.system.resources import available_memory

T = TypeVar("T")

# How often the processes are started again in one call, before it fails.
_ATTEMPTS = 3
# Requests that a worker has at a time: the next one is there when it has finished one.
_AHEAD = 2
_GIB = 2**30

_log = logging.getLogger(__name__)


class WorkerDiedError(RuntimeError):
    """A worker process has ended."""


class WorkerPool:
    """A trainer that lets worker processes compute.

    Args:
        server: the process that they are forked from.
        source: the model that they load, and what else they are started with.
        model: the same model in this process: it holds the parameters that the optimizer changes.
        devices: one for each worker.
        at_most: whether fewer workers may be used where memory does not hold them all.
    """

    def __init__(
        self,
        server: WorkerServerHandle,
        source: Model,
        model: LoraModel,
        devices: Sequence[str],
        *,
        at_most: bool,
    ) -> None:
        self._server = server
        self._source = source
        self._model = model
        self._devices = list(devices)
        self._at_most = at_most
        self._workers: list[Connection] = []
        self._digest = ""
        self.settled: Rounding | None = None

    @property
    def device(self) -> torch.device:
        """The device of the first worker."""
        return torch.device(self._devices[0])

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self._devices)

    def verify(self) -> torch.dtype:
        """See `verified_precision`; and fewer workers from now on, or an error, if memory does not hold them."""
        return self._repeated(self._verified)

    def check_rows(self, precision: torch.dtype) -> dict[int, int]:
        """See `checked_rows`: done in every worker."""
        return self._repeated(lambda: _equal(self._ask_all("check_rows", precision), "the rows"))

    def settle(self, rounding: Rounding) -> None:
        """Fix what rounding depends on, and compare the gradients of the workers bit for bit."""
        self._digest = self._repeated(lambda: _equal(self._ask_all("settle", rounding), "the gradients"))
        self.settled = rounding

    @contextmanager
    def round(self, adapter: Adapter, *, head_only: bool, clipping_norm: float) -> Iterator[ClippedSum]:
        """Begin a round from an adapter; see `Trainer.round`."""
        assert self.settled is not None, "nothing is computed before the checks"
        _, fewer_rows = self.settled
        self._model.load(adapter)
        parameters = self._model.trained_parameters(head_only=head_only)

        def begin() -> None:
            self._ask_all("begin", adapter, head_only, clipping_norm)

        def sum_of(sample: Sequence[Unit]) -> torch.Tensor:
            flat = [parameters[name].detach().numpy().reshape(-1) for name in sorted(parameters)]
            values = np.concatenate(flat)
            parts = portions(sample, len(values), self._source.max_tokens, fewer_rows, self.size)

            def computed() -> torch.Tensor:
                self._ask_all("step", values)
                self._deal("add", parts)
                total = np.zeros(len(values), dtype=np.int64)
                for part in self._ask_all("sum"):
                    total += part
                return torch.from_numpy(total)

            return self._repeated(computed, begin)

        self._repeated(begin)
        try:
            yield sum_of
        finally:
            for parameter in parameters.values():
                parameter.grad = None

    def vectors(self, adapter: Adapter, units: Sequence[Unit]) -> list[Unit]:
        """See `vectors_of`."""
        order = sorted(range(len(units)), key=lambda place: max(map(len, units[place]), default=0))
        size = max(1, len(units) // (8 * self.size))
        places = [order[start : start + size] for start in range(0, len(order), size)]

        def computed() -> list[list[Unit]]:
            self._ask_all("load", adapter)
            return self._deal("vectors", [[units[place] for place in part] for part in places], ahead=1)

        made: dict[int, Unit] = {}
        for part, vectors in zip(places, self._repeated(computed), strict=True):
            made.update(zip(part, vectors, strict=True))
        return [made[place] for place in range(len(units))]

    def close(self) -> None:
        """End the workers."""
        for connection in self._workers:
            connection.close()
        self._workers = []

    def _verified(self) -> torch.dtype:
        self._fork(self._devices[:1])
        precision: torch.dtype = self._ask_all("verify")[0]
        (needed,) = self._ask_all("memory", precision)
        if self._devices[0] == "cpu":
            self._check_memory(needed)
        if self.size == 1:
            return precision
        self._fork(self._devices)
        precisions: list[torch.dtype] = self._ask_all("verify")
        return _equal([precision, *precisions], "the precision")

    def _check_memory(self, needed: int) -> None:
        # The first worker is there, and has taken its part.
        fitting = 1 + available_memory() // needed
        if fitting >= self.size:
            return
        text = f"{self.size} workers: each takes {needed / _GIB:.1f} GiB for this plan, and memory holds {fitting}"
        if not self._at_most:
            raise OutOfMemoryError(f"{text}; vault.workers should be {fitting} or less")
        _log.warning("%s: %d are used", text, fitting)
        self._devices = self._devices[:fitting]

    def _fork(self, devices: Sequence[str]) -> None:
        self.close()
        self._workers = self._server.fork(self._source, devices)

    def _repeated(self, work: Callable[[], T], begin: Callable[[], None] | None = None) -> T:
        """Do some work, again with new workers if one dies. After any other error there are no workers.

        Args:
            work: asks workers.
            begin: what new workers have to be told first, after they have been compared with the others.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if attempt > 1 or (self.settled is not None and not self._workers):
                    self._fork(self._devices)
                    if self.settled is not None:
                        _equal([self._digest, *self._ask_all("settle", self.settled)], "the gradients")
                    if begin is not None:
                        begin()
                return work()
            except WorkerDiedError:
                ended = ", ".join(map(str, self._server.end_after_death(self._source))) or "unknown"
                _log.warning(
                    "a worker process ended (exit code %s; -9: killed, perhaps for lack of memory); its work is "
                    "done again, and nothing is charged or counted twice",
                    ended,
                )
            except BaseException:  # whatever it is: no answer on its way shall be taken for a later one
                self.close()
                raise
        self.close()
        raise GuaranteeError(f"worker processes ended {_ATTEMPTS} times: vault.workers should perhaps be smaller")

    def _ask_all(self, *request: Any) -> list[Any]:
        """The answers of all workers to one request, in the order of the workers."""
        for connection in self._workers:
            _send(connection, request)
        return [_answer(connection) for connection in self._workers]

    def _deal(self, name: str, jobs: Sequence[Any], ahead: int = _AHEAD) -> list[Any]:
        """Give each job to a worker that is free; the answers in the order of the jobs.

        Args:
            name: of the request.
            jobs: its only argument, each.
            ahead: requests that a worker has at a time; more than one only where answers are short, since neither
                side reads while it writes.
        """
        left = deque(enumerate(jobs))
        asked: dict[Connection, deque[int]] = {connection: deque() for connection in self._workers}
        answers: dict[int, Any] = {}

        def give(connection: Connection) -> None:
            while left and len(asked[connection]) < ahead:
                place, job = left.popleft()
                _send(connection, (name, job))
                asked[connection].append(place)

        for connection in self._workers:
            give(connection)
        while busy := [connection for connection, places in asked.items() if places]:
            for ready in wait(busy):
                assert isinstance(ready, Connection)
                answers[asked[ready].popleft()] = _answer(ready)
                give(ready)
        return [answers[place] for place in range(len(jobs))]


def _send(connection: Connection, request: tuple[Any, ...]) -> None:
    try:
        connection.send(request)
    except OSError:
        raise WorkerDiedError from None


def _answer(connection: Connection) -> Any:
    try:
        state, value = connection.recv()
    except (EOFError, OSError):
        raise WorkerDiedError from None
    if state == DONE:
        return value
    kind, text = value
    # A text of these kinds is ours; that of any other error was left out where it was raised.
    raise OutOfMemoryError(text) if kind == OutOfMemoryError.__name__ else GuaranteeError(text)


def _equal(answers: Sequence[T], what: str) -> T:
    if any(answer != answers[0] for answer in answers):
        raise GuaranteeError(
            f"{what} of one worker are not those of another: their devices should be of one kind, or "
            "vault.workers 1"
        )
    return answers[0]

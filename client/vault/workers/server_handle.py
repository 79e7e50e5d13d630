"""The vault's side of the process that worker processes are forked from."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from client.vault.training.errors import GuaranteeError
from client.vault.workers.messages import DONE
from common.plan.plan import Plan

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Model:
    """What workers are started with.

    Attributes:
        key: tells models apart.
        folder: of the base model.
        plan: at the organization's rank.
        max_tokens: padded tokens of a micro-batch.
        fingerprint: of the base model; another one in the folder is an error.
    """

    key: str
    folder: str
    plan: Plan
    max_tokens: int
    fingerprint: str


class WorkerServerHandle:
    """Starts the process, again if it has ended, and asks it to fork workers."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._connection: Connection | None = None
        self._loaded: set[str] = set()

    def start(self) -> None:
        """Start the process, unless it runs; importing its libraries takes it seconds, which nobody waits for."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        own, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(  # noqa: S603 - a module of this code base
                [sys.executable, "-P", "-m", "client.vault.workers.server", str(other.fileno())],
                env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": _same_code()},
                stdin=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
            )
        self._socket, self._connection = own, Connection(os.dup(own.fileno()))

    def fork(self, model: Model, devices: Sequence[str]) -> list[Connection]:
        """End the workers of a model, and fork new ones.

        Args:
            model: loaded first, unless it is.
            devices: one for each worker.

        Raises:
            GuaranteeError: the process cannot load the model, or ended twice.
        """
        for attempt in (1, 2):
            self.start()
            try:
                return self._fork(model, devices)
            except (EOFError, OSError):
                self.close()
                if attempt == 2:
                    raise GuaranteeError("the process that worker processes are forked from has ended") from None
        raise AssertionError("the second attempt returns or raises")

    def end_after_death(self, model: Model) -> list[int]:
        """End the workers of a model of which one has died; the exit codes of those that have."""
        try:
            return list(self._ask("died", model.key)) if self._connection is not None else []
        except (EOFError, OSError):
            return []

    def close(self) -> None:
        """End the process, and so all workers."""
        if self._connection is not None:
            self._connection.close()
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._process = self._socket = self._connection = None
        self._loaded = set()

    def _fork(self, model: Model, devices: Sequence[str]) -> list[Connection]:
        if model.key not in self._loaded:
            if self._ask("load", model.key, model.folder, model.plan) != model.fingerprint:
                raise GuaranteeError("the base model has changed since it was loaded")
            self._loaded.add(model.key)
        self._ask("end", model.key)
        pairs = [socket.socketpair() for _ in devices]
        assert self._connection is not None
        assert self._socket is not None
        self._connection.send(("fork", model.key, list(devices), model.max_tokens))
        for _, other in pairs:
            with other:
                socket.send_fds(self._socket, [b"0"], [other.fileno()])
        self._answer()
        return [Connection(own.detach()) for own, _ in pairs]

    def _ask(self, *request: Any) -> Any:
        assert self._connection is not None
        self._connection.send(request)
        return self._answer()

    def _answer(self) -> Any:
        assert self._connection is not None
        state, value = self._connection.recv()
        if state == DONE:
            return value
        raise GuaranteeError(f"workers cannot be started: {value[1]}")


def _same_code() -> str:
    """A search path on which the process finds the code that this one runs, wherever it was started."""
    here = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))

"""The process that worker processes are forked from: it loads a model once, and they share its memory.

It is a fresh interpreter with a single thread, so that a fork is safe, and holds neither records nor keys. It is
started as `python -m client.vault.workers.server FD` with one end of a socket pair. Frozen weights are pages of a
file, or memory that is shared until somebody writes to it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import warnings
from multiprocessing.connection import Connection

import torch

from client.vault.workers.messages import serve
from client.vault.workers.process import run
from client.vault.workers.worker import Worker
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.system.environment import set_defaults
from common.system.redaction import failure
from common.tasks import make_task

_ENDING_SECONDS = 1.0


class WorkerServer:
    """Loads models and forks workers, as the pool asks.

    Args:
        control: a socket whose other end the pool has.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._connection = Connection(os.dup(control.fileno()))
        self._sources: dict[str, tuple[str, Plan]] = {}
        self._models: dict[str, LoraModel] = {}
        self._children: dict[int, str] = {}

    def serve(self) -> None:
        """Answer until the pool is gone; the workers see that themselves."""
        # No record was ever here: an error may show its text.
        serve(self._connection, self, lambda error: (type(error).__name__, failure(error, text=True)))

    def _load(self, key: str, folder: str, plan: Plan) -> str:
        """Remember a model under a key, and load it where workers on the processor will share it."""
        self._sources[key] = folder, plan
        self._models[key] = LoraModel(folder, plan)
        return self._models[key].fingerprint

    def _fork(self, key: str, devices: list[str], max_tokens: int) -> None:
        """Fork a worker for each device; the other ends of their connections follow one by one."""
        sockets = [self._receive_socket() for _ in devices]
        for place, device in enumerate(devices):
            pid = os.fork()
            if pid == 0:
                for other in sockets[:place] + sockets[place + 1 :]:
                    other.close()
                self._become_worker(key, device, max_tokens, sockets[place])
            self._children[pid] = key
        for each in sockets:
            each.close()

    def _end(self, key: str) -> list[int]:
        """End the workers of a model.

        Returns:
            The exit codes of those that had ended by themselves; minus the number of a signal.
        """
        ended = self._ended(key)
        for pid in [pid for pid, owner in self._children.items() if owner == key]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            del self._children[pid]
        return ended

    def _died(self, key: str) -> list[int]:
        """The same when a worker of the model has closed its connection, which is shortly before it has ended."""
        deadline = time.monotonic() + _ENDING_SECONDS
        while not (ended := self._ended(key)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return ended + self._end(key)

    def _ended(self, key: str) -> list[int]:
        codes = []
        for pid in [pid for pid, owner in self._children.items() if owner == key]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes.append(os.waitstatus_to_exitcode(status))
                del self._children[pid]
        return codes

    def _receive_socket(self) -> socket.socket:
        _, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        return socket.socket(fileno=descriptors[0])

    def _become_worker(self, key: str, device: str, max_tokens: int, end: socket.socket) -> None:
        try:
            self._connection.close()
            self._control.close()
            folder, plan = self._sources[key]
            model = self._models[key] if device == "cpu" else LoraModel(folder, plan, device)
            worker = Worker(model, make_task(plan.task, model.tokenizer), plan, max_tokens)
            run(worker, Connection(end.detach()))
        finally:
            os._exit(1)


def main() -> None:
    """Serve on the socket whose number is the only argument."""
    set_defaults()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries: they concern their developers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    WorkerServer(socket.socket(fileno=int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()

"""Who computes for a vault: its own process, or so many worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from client.vault.workers.pool import WorkerPool
from client.vault.workers.server_handle import Model, WorkerServerHandle
from client.vault.workers.worker import Trainer, Worker
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.system.resources import usable_cores
from common.tasks import Task


def worker_devices(workers: int | None, devices: Sequence[str]) -> list[str]:
    """The device of each worker.

    Args:
        workers: how many; None for one on each core that this process may use, or on each GPU.
        devices: the workers are spread over them.

    >>> worker_devices(3, ["cuda:0", "cuda:1"]), worker_devices(None, ["cuda:0"])
    (['cuda:0', 'cuda:1', 'cuda:0'], ['cuda:0'])
    """
    if workers is None:
        workers = usable_cores() if list(devices) == ["cpu"] else len(devices)
    return [devices[place % len(devices)] for place in range(workers)]


class Compute:
    """Makes trainers. Worker processes are started when the first is made, or by `start`.

    Args:
        workers: how many; None for one on each core that this process may use, or on each GPU.
        devices: the workers are spread over them.
        share: whether the trainers of several models are kept side by side, as in a simulation.
        server: what worker processes are forked from; a new one if it is None.
    """

    def __init__(
        self,
        workers: int | None = 1,
        devices: Sequence[str] = ("cpu",),
        *,
        share: bool = False,
        server: WorkerServerHandle | None = None,
    ) -> None:
        self._devices = worker_devices(workers, devices)
        self._at_most = workers is None
        self._share = share
        self._server = server or WorkerServerHandle()
        self._pools: dict[str, WorkerPool] = {}

    def __enter__(self) -> Compute:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def in_processes(self) -> bool:
        """Whether worker processes compute, and not this one."""
        return len(self._devices) > 1

    @property
    def main_device(self) -> str:
        """Where the vault's own model lives: where it trains, unless worker processes do."""
        return "cpu" if self.in_processes else self._devices[0]

    def start(self) -> None:
        """Start importing what workers need, beside whatever this process does next."""
        if self.in_processes:
            self._server.start()

    def trainer(self, folder: str, model: LoraModel, task: Task, plan: Plan, max_tokens: int, key: str) -> Trainer:
        """A trainer for a model.

        Args:
            folder: of the base model.
            model: loaded from it, on `main_device`, with the plan's layers.
            task: of the plan.
            plan: at the organization's rank.
            max_tokens: padded tokens of a micro-batch.
            key: equal for plans that can share workers.
        """
        if not self.in_processes:
            return Worker(model, task, plan, max_tokens)
        key = f"{folder}\n{max_tokens}\n{key}"
        if key not in self._pools:
            if self._pools and not self._share:
                self.close()  # the memory of an earlier plan
            source = Model(key, folder, plan, max_tokens, model.fingerprint)
            self._pools[key] = WorkerPool(self._server, source, model, self._devices, at_most=self._at_most)
        return self._pools[key]

    def close(self) -> None:
        """End all worker processes."""
        for pool in self._pools.values():
            pool.close()
        self._pools = {}
        self._server.close()

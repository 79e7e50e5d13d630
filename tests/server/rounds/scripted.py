"""Participants that answer by script."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.adapter.adapter import Adapter, from_bytes, initial, to_bytes
from common.errors import Refused
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Statement
from server.rounds.rounds import run_rounds
from server.run_directory.run_directory import RunDirectory
from server.tracking.observer import Observer
from simulations.local_grid import LocalGrid


class Scripted:
    """Answers each request with what a function makes of it."""

    def __init__(self, name: str, update: Callable[[Adapter], bytes], public_size: int = 100) -> None:
        self._name = name
        self._update = update
        self._public_size = public_size
        self.requests: list[TrainRequest] = []

    def describe(self) -> Description:
        return Description(self._name, "example", self._public_size)

    def train(self, request: TrainRequest) -> Release:
        self.requests.append(request)
        return Release(self._update(from_bytes(request.adapter, SHAPES)))

    def statement(self, run: str) -> Statement:
        raise Refused("malformed-request", run)


SHAPES: dict[str, tuple[int, ...]] = {}


def constant(value: float) -> Callable[[Adapter], bytes]:
    return lambda adapter: to_bytes({name: np.full_like(tensor, value) for name, tensor in adapter.items()})


def change(directory: RunDirectory, adapter: Adapter) -> float:
    """The common change of every coordinate since round 0."""
    before = initial(directory.trained_shapes, 0)
    values = np.concatenate([(adapter[name] - before[name]).ravel() for name in adapter])
    assert np.allclose(values, values[0])
    return float(values[0])


def run(directory: RunDirectory, *participants: Scripted) -> Adapter:
    grid = LocalGrid(dict(enumerate(participants, start=1)))
    return run_rounds(grid, directory, None, Observer())

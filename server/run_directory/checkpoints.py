"""Checkpoints of a run: `checkpoints/round-NNNN/`, written atomically."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from common.adapter.adapter import Adapter, AdapterError, Shapes, from_bytes, to_bytes
from common.errors import InputError
from common.plan.aggregation import Aggregation
from server.aggregation.optimizers import ServerState, initial_state
from server.run_directory.files import as_json, read_as, sync_folder, write

_ADAPTER, _STATE, _OPTIMIZER = "adapter.safetensors", "state.json", "optimizer.safetensors"

# Fields of `ServerState` beside the adapter.
_PARTS = ("momentum", "variance", "average")


@dataclass(frozen=True)
class _Origin:
    """The contents of `state.json`: which run and round the checkpoint belongs to."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    run: str
    round: int


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: of all checkpoints; need not exist.
        run: the run's id.
        shapes: of the tensors that the run trains.
        aggregation: of the plan; determines the fields of a state beside the adapter.
    """

    def __init__(self, folder: Path, run: str, shapes: Shapes, aggregation: Aggregation) -> None:
        self._folder = folder
        self._run = run
        self._shapes = shapes
        self._aggregation = aggregation

    def write(self, number: int, state: ServerState) -> None:
        """Write the state after a round, atomically."""
        final = self._path(number)
        part = final.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part / _ADAPTER, to_bytes(state.adapter))
        if tensors := _optimizer_tensors(state):
            write(part / _OPTIMIZER, to_bytes(tensors))
        write(part / _STATE, as_json({"run": self._run, "round": number}))
        shutil.rmtree(final, ignore_errors=True)
        part.replace(final)
        sync_folder(self._folder)

    def latest(self) -> tuple[int, ServerState]:
        """Return the last completed round and the state after it.

        Raises:
            InputError: there is no checkpoint, or the last one is not from this run.
        """
        paths = self._folder.glob("round-*")
        numbers = [int(path.name[6:]) for path in paths if re.fullmatch("round-[0-9]{4,9}", path.name)]
        if not numbers:
            raise InputError(f"{self._folder}: holds no checkpoint")
        return max(numbers), self.read(max(numbers))

    def read(self, number: int) -> ServerState:
        """Read the state after a round.

        Raises:
            InputError: there is no such checkpoint, or it is not from this run.
        """
        path = self._path(number)
        adapter = _read(path / _ADAPTER, self._shapes, "adapter")
        if _origin(path / _STATE) != _Origin(self._run, number):
            wanted = f"{self._run}, round {number}"
            raise InputError(f"{path / _STATE}: belongs to another run or round; it should name {wanted}")
        expected = {
            name: tensor.shape
            for name, tensor in _optimizer_tensors(initial_state(adapter, self._aggregation)).items()
        }
        tensors = _read(path / _OPTIMIZER, expected, "server optimizer") if expected else {}
        state = ServerState(adapter, **{part: _part(tensors, part) for part in _PARTS})
        if any((tensor < 0).any() for tensor in state.variance.values()):
            raise InputError(f"{path / _OPTIMIZER}: a variance is negative; it should be at least 0")
        return state

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:04d}"


def _optimizer_tensors(state: ServerState) -> Adapter:
    """Return all tensors except the adapter, with names that are unique in one file."""
    parts: Mapping[str, Adapter] = {part: getattr(state, part) for part in _PARTS}
    return {f"{part}/{name}": tensor for part in _PARTS for name, tensor in parts[part].items()}


def _part(tensors: Adapter, part: str) -> Adapter:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}


def _read(path: Path, shapes: Shapes, what: str) -> Adapter:
    try:
        return from_bytes(path.read_bytes(), shapes)
    except (OSError, AdapterError) as error:
        raise InputError(f"{path}: holds no {what} of this run: {error}") from None


def _origin(path: Path) -> _Origin:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: holds no round of this run: {error}") from None
    return read_as(_Origin, data, path)

"""Checkpoints of a run: `checkpoints/round-NNNN/`, each whole or not there at all."""

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
from server.aggregation.optimizers import ServerState, begin
from server.run_directory.files import as_json, read_as, sync_folder, write

_ADAPTER, _STATE, _OPTIMIZER = "adapter.safetensors", "state.json", "optimizer.safetensors"

# What a state holds beside its adapter.
_PARTS = ("momentum", "variance", "average")


@dataclass(frozen=True)
class _Mark:
    """What `state.json` holds: whose checkpoint it is."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    run: str
    round: int


def write_checkpoint(folder: Path, run: str, number: int, state: ServerState) -> None:
    """Store the state after a round.

    Args:
        folder: of all checkpoints.
        run: the run's id.
        number: of the round.
        state: after it.
    """
    final = folder / f"round-{number:04d}"
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part / _ADAPTER, to_bytes(state.adapter))
    if more := _flat(state):
        write(part / _OPTIMIZER, to_bytes(more))
    write(part / _STATE, as_json({"run": run, "round": number}))
    shutil.rmtree(final, ignore_errors=True)
    part.replace(final)
    sync_folder(folder)


def latest_checkpoint(folder: Path, run: str, shapes: Shapes, aggregation: Aggregation) -> tuple[int, ServerState]:
    """The last round that was completed, and the state after it.

    Args:
        folder: of all checkpoints.
        run: the run's id.
        shapes: of the tensors that travel.
        aggregation: of the plan; says what the state holds beside the adapter.

    Raises:
        InputError: there is none, or the last one is not what this run stores.
    """
    found = folder.glob("round-*")
    numbers = [int(path.name[6:]) for path in found if re.fullmatch("round-[0-9]{4,9}", path.name)]
    if not numbers:
        raise InputError(f"{folder}: holds no checkpoint")
    return max(numbers), read_checkpoint(folder, run, max(numbers), shapes, aggregation)


def read_checkpoint(folder: Path, run: str, number: int, shapes: Shapes, aggregation: Aggregation) -> ServerState:
    """The state after a round; arguments as of `latest_checkpoint`.

    Raises:
        InputError: it is not there, or not what this run stores.
    """
    path = folder / f"round-{number:04d}"
    adapter = _read(path / _ADAPTER, shapes, "adapter")
    if _mark(path / _STATE) != _Mark(run, number):
        raise InputError(f"{path / _STATE}: belongs to another run or round; it should name {run}, round {number}")
    wanted = {name: tensor.shape for name, tensor in _flat(begin(adapter, aggregation)).items()}
    more = _read(path / _OPTIMIZER, wanted, "server optimizer") if wanted else {}
    state = ServerState(adapter, **{part: _part(more, part) for part in _PARTS})
    if any((tensor < 0).any() for tensor in state.variance.values()):
        raise InputError(f"{path / _OPTIMIZER}: a variance is negative; it should be at least 0")
    return state


def _flat(state: ServerState) -> Adapter:
    """All but the adapter, as named tensors of one file."""
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


def _mark(path: Path) -> _Mark:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: holds no round of this run: {error}") from None
    return read_as(_Mark, data, path)

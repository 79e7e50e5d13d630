"""A run directory: all files of a run, in the layout that docs/run_directory.md describes.

Every file is written atomically.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PositiveInt

from common.adapter.adapter import Adapter, Shapes, trainable_shapes
from common.errors import InputError
from common.plan.plan import Plan
from common.run.round_line import RoundLine
from server.aggregation.optimizers import initial_state
from server.run_directory.checkpoints import Checkpoints
from server.run_directory.files import as_json, read_as, write
from server.run_directory.round_log import RoundLog
from server.run_directory.statements import Statements
from server.run_directory.status import StatusFile

# A run directory may come from another party: its files are checked as strictly as messages from the network.
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class RunInfo:
    """The contents of `run.json`.

    Attributes:
        run: id of the run, `name-date-8hex`; kept when the run is resumed.
        digest: of the plan's agreement.
        base: folder or name from which the coordinator loaded the base model.
        fingerprint: of the base model.
        shapes: of every LoRA tensor.
        private: False only for `sotto simulate --no-privacy`.
        registry: folder of the registry; None in a simulation.
        authenticated: whether only nodes of registered organizations take part.
    """

    __pydantic_config__ = _STRICT
    run: str
    digest: str
    base: str
    fingerprint: str
    shapes: dict[str, tuple[PositiveInt, ...]]
    private: bool
    registry: str | None = None
    authenticated: bool = False

    @property
    def registry_folder(self) -> Path | None:
        """Folder of the registry; None in a simulation."""
        return Path(self.registry) if self.registry else None


def new_run_id(name: str) -> str:
    """Generate the id of a new run, `name-date-8hex`."""
    return f"{name}-{datetime.now(UTC):%Y-%m-%d}-{secrets.token_hex(4)}"


class RunDirectory:
    """A run on disk; use `create` or `open`.

    Attributes:
        path: of the directory.
        info: contents of `run.json`.
        plan: of the run, with defaults filled in.
        checkpoints: states of the server after each round.
        round_log: lines of the rounds.
        statements: of the organizations, and their keys.
        status: progress of the run.
    """

    def __init__(self, path: Path, info: RunInfo, plan: Plan) -> None:
        self.path = path
        self.info = info
        self.plan = plan
        self.checkpoints = Checkpoints(path / "checkpoints", info.run, self.trained_shapes, plan.aggregation)
        self.round_log = RoundLog(path / "rounds.jsonl")
        self.statements = Statements(path / "privacy")
        self.status = StatusFile(path / "status.json")

    @classmethod
    def create(cls, path: Path, info: RunInfo, plan: Plan, initial: Adapter) -> RunDirectory:
        """Create a run with its plan, its id and the checkpoint of round 0.

        Raises:
            InputError: the directory already contains a run; nothing is written.
        """
        if (path / "run.json").exists():
            ensure_free(path)
        path.mkdir(parents=True, exist_ok=True)
        directory = cls(path, info, plan)
        write(path / "plan.toml", plan.to_toml().encode())
        directory.checkpoints.write(0, initial_state(initial, plan.aggregation))
        # Written last: a directory with run.json can be resumed.
        write(path / "run.json", as_json(asdict(info)))
        return directory

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run.

        Raises:
            InputError: the directory contains no run.
        """
        try:
            data = (path / "run.json").read_bytes()
        except FileNotFoundError:
            raise InputError(f"{path}: holds no run; it should be the directory of an earlier run") from None
        return cls(path, read_as(RunInfo, data, path / "run.json"), Plan.read(path / "plan.toml"))

    @property
    def trained_shapes(self) -> Shapes:
        """Shapes of the tensors that the plan trains."""
        return trainable_shapes(self.info.shapes, self.plan.aggregation.method)

    @property
    def adapter_folder(self) -> Path:
        """Folder of the result, in PEFT format."""
        return self.path / "adapter"

    def latest_checkpoint(self) -> tuple[int, Adapter]:
        """Return the last completed round and the adapter that is released after it.

        Raises:
            InputError: there is no checkpoint, or the last one is not from this run.
        """
        number, state = self.checkpoints.latest()
        return number, state.released

    def checkpoint(self, number: int) -> Adapter:
        """Return the adapter that is released if this round is the result.

        Raises:
            InputError: there is no such checkpoint, or it is not from this run.
        """
        return self.checkpoints.read(number).released

    def rounds(self) -> list[RoundLine]:
        """Read the lines of `rounds.jsonl`."""
        return self.round_log.lines()

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file; `name` is relative to the run directory."""
        write(self.path / name, as_json(values))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file; `name` is relative to the run directory."""
        write(self.path / name, text.encode())


def ensure_free(path: Path) -> None:
    """Check that a directory is empty or does not exist.

    Raises:
        InputError: it is neither.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; --out should be a new directory")
    if path.is_dir() and (path / "run.json").exists():
        run = RunDirectory.open(path).info.run
        raise InputError(f"{path}: already holds the run {run}; give --resume to continue it, or another --out")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path}: is not empty; --out should be a new directory")

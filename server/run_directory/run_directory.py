"""A run directory: everything that a run leaves, in the layout that the README shows.

Files appear whole or not at all: they are written beside their place and moved there.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PositiveInt

from common.adapter.adapter import Adapter, Shapes, trained
from common.errors import InputError
from common.plan.plan import Plan
from server.aggregation.optimizers import begin
from server.run_directory.checkpoints import Checkpoints
from server.run_directory.files import as_json, read_as, write
from server.run_directory.round_log import RoundLine, RoundLog
from server.run_directory.statements import Statements
from server.run_directory.status import StatusFile

# A directory may have come from somebody else: what its files hold is checked like what comes over the network.
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class RunInfo:
    """What `run.json` holds.

    Attributes:
        run: our own id, `name-date-8hex`; a resumed run keeps it.
        digest: of the plan's agreement.
        base: where the coordinator found the base model.
        fingerprint: of the base model.
        shapes: every LoRA tensor.
        private: False only for `sotto simulate --no-privacy`.
        registry: folder of the registered organizations; None in a simulation.
        authenticated: whether only the nodes of registered organizations take part.
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
        """Folder of the registered organizations; None in a simulation."""
        return Path(self.registry) if self.registry else None


def new_run_id(name: str) -> str:
    """`name-date-8hex`."""
    return f"{name}-{datetime.now(UTC):%Y-%m-%d}-{secrets.token_hex(4)}"


class RunDirectory:
    """A run on disk. Make one with `create` or `open`.

    Attributes:
        path: of the directory.
        info: what `run.json` holds.
        plan: as it runs.
        checkpoints: the server's state after each round.
        round_log: what happened in each round.
        statements: of the organizations, and their keys.
        status: how far the run is.
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
        """Start a run: the plan as it runs, the run's id, and round 0.

        Raises:
            InputError: the directory holds a run already; nothing is written.
        """
        if (path / "run.json").exists():
            ensure_free(path)
        path.mkdir(parents=True, exist_ok=True)
        directory = cls(path, info, plan)
        write(path / "plan.toml", plan.to_toml().encode())
        directory.checkpoints.write(0, begin(initial, plan.aggregation))
        # Last: a directory with run.json is complete enough to be resumed.
        write(path / "run.json", as_json(asdict(info)))
        return directory

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """A run that was started before.

        Raises:
            InputError: there is none.
        """
        try:
            data = (path / "run.json").read_bytes()
        except FileNotFoundError:
            raise InputError(f"{path}: holds no run; it should be the directory of an earlier run") from None
        return cls(path, read_as(RunInfo, data, path / "run.json"), Plan.read(path / "plan.toml"))

    @property
    def trained_shapes(self) -> Shapes:
        """The tensors that the plan trains."""
        return trained(self.info.shapes, self.plan.aggregation.method)

    @property
    def adapter_folder(self) -> Path:
        """The result, in PEFT format."""
        return self.path / "adapter"

    def latest_checkpoint(self) -> tuple[int, Adapter]:
        """The last round that was completed, and the adapter that is released after it.

        Raises:
            InputError: the last checkpoint is not what this run stores.
        """
        number, state = self.checkpoints.latest()
        return number, state.released

    def checkpoint(self, number: int) -> Adapter:
        """The adapter that is released if a round is the result.

        Raises:
            InputError: there is none, or it is of other tensors.
        """
        return self.checkpoints.read(number).released

    def rounds(self) -> list[RoundLine]:
        """The lines of `rounds.jsonl`."""
        return self.round_log.lines()

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file of the run."""
        write(self.path / name, as_json(values))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run."""
        write(self.path / name, text.encode())


def ensure_free(path: Path) -> None:
    """Refuse a directory that holds anything.

    Raises:
        InputError: what it holds, and what to do.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; --out should be a new directory")
    if path.is_dir() and (path / "run.json").exists():
        run = RunDirectory.open(path).info.run
        raise InputError(f"{path}: already holds the run {run}; give --resume to continue it, or another --out")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path}: is not empty; --out should be a new directory")

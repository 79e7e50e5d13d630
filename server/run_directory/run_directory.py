"""A run directory: everything that a run leaves, in the layout that the README shows.

Files appear whole or not at all: they are written beside their place and moved there.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, PositiveInt

from common.adapter.adapter import Adapter, Shapes, trained
from common.errors import InputError
from common.keys.statement_key import public_line, read_keys
from common.plan.plan import Plan
from common.protocol.statement import Statement
from common.settings import Section
from common.untrusted import printable, read_json
from server.aggregation.optimizers import ServerState, begin
from server.registry.registry import Registry
from server.run_directory import checkpoints
from server.run_directory.files import as_json, read_as, write

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


class _Organizations(Section):
    asked: list[str] = []
    answered: list[str] = []
    refused: dict[str, str] = {}


def _checked(organizations: dict[str, Any]) -> dict[str, Any]:
    _Organizations.model_validate(organizations)
    return organizations


@dataclass(frozen=True)
class RoundLine:
    """A line of `rounds.jsonl`. Bytes are adapters, plans and names; Flower's own framing is not counted."""

    __pydantic_config__ = _STRICT
    round: int
    organizations: Annotated[dict[str, Any], AfterValidator(_checked)]
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    metrics: dict[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """How far a run is: `status.json`.

    Attributes:
        state: "waiting" for organizations, "running", "complete" or "failed".
        round: the round that is being run.
        organizations: connected, or asked in this round.
        answered: those that answered in this round.
        reason: why it failed.
        flower_run: Flower's id of the run.
    """

    __pydantic_config__ = _STRICT
    state: str
    round: int = 0
    organizations: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    reason: str = ""
    # It becomes a word of a command line.
    flower_run: Annotated[str, Field(pattern="^[0-9]*$")] = ""


def new_run_id(name: str) -> str:
    """`name-date-8hex`."""
    return f"{name}-{datetime.now(UTC):%Y-%m-%d}-{secrets.token_hex(4)}"


class RunDirectory:
    """A run on disk. Make one with `create` or `open`."""

    def __init__(self, path: Path, info: RunInfo, plan: Plan) -> None:
        self.path = path
        self.info = info
        self.plan = plan
        self.registry = Registry(Path(info.registry) if info.registry else None)

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
        directory.write_checkpoint(0, begin(initial, plan.aggregation))
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

    def write_checkpoint(self, number: int, state: ServerState) -> None:
        """Store the state after a round, whole or not at all."""
        checkpoints.write_checkpoint(self.path / "checkpoints", self.info.run, number, state)

    def latest_state(self) -> tuple[int, ServerState]:
        """The last round that was completed, and the state after it.

        Raises:
            InputError: the last checkpoint is not what this run stores.
        """
        folder, aggregation = self.path / "checkpoints", self.plan.aggregation
        return checkpoints.latest_checkpoint(folder, self.info.run, self.trained_shapes, aggregation)

    def latest_checkpoint(self) -> tuple[int, Adapter]:
        """The last round that was completed, and the adapter that is released after it."""
        number, state = self.latest_state()
        return number, state.released

    def checkpoint(self, number: int) -> Adapter:
        """The adapter that is released if a round is the result.

        Raises:
            InputError: there is none, or it is of other tensors.
        """
        folder, aggregation = self.path / "checkpoints", self.plan.aggregation
        return checkpoints.read_checkpoint(
            folder, self.info.run, number, self.trained_shapes, aggregation
        ).released

    def rounds(self) -> list[RoundLine]:
        """The lines of `rounds.jsonl`; a last line that was cut off is not counted."""
        path = self.path / "rounds.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [read_as(RoundLine, line, path) for line in lines if line.endswith(b"\n")]

    def forget_rounds_after(self, number: int) -> list[RoundLine]:
        """Drop lines of rounds that have no checkpoint, before they are run again."""
        kept = [line for line in self.rounds() if line.round <= number]
        write(self.path / "rounds.jsonl", "".join(_line(line) for line in kept).encode())
        return kept

    def append_round(self, line: RoundLine) -> None:
        """Add a line to `rounds.jsonl`."""
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())

    def write_statement(self, statement: Statement) -> None:
        """Store what an organization says that the run costs it."""
        self.write_json(f"privacy/statements/{statement.organization}.json", statement.to_dict())

    def write_key(self, organization: str, public: str) -> None:
        """Store the key with which an organization was registered when the run ended."""
        write(self.path / "privacy" / "keys" / f"{organization}.pub", public_line(public, organization).encode())

    def keys(self) -> dict[str, str]:
        """Organization → its registered key, as it was when the run ended."""
        return read_keys(self.path / "privacy" / "keys")

    def statements(self) -> list[Statement]:
        """All stored statements, by organization.

        Raises:
            InputError: a file holds no statement, or another organization's.
        """
        files = sorted((self.path / "privacy" / "statements").glob("*.json"))
        return [_read_statement(file) for file in files]

    def write_status(self, status: Status) -> None:
        """Say how far the run is, for whoever watches it from another process."""
        self.write_json("status.json", asdict(status))

    def status(self) -> Status | None:
        """How far the run is; None before anything was said."""
        try:
            data = (self.path / "status.json").read_bytes()
        except FileNotFoundError:
            return None
        return read_as(Status, data, self.path / "status.json")

    def forget_status(self) -> None:
        """Before the run is begun or continued: what was said earlier no longer holds."""
        (self.path / "status.json").unlink(missing_ok=True)

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


def _read_statement(path: Path) -> Statement:
    try:
        statement = Statement.from_dict(read_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        # Its text may hold what the organization wrote; one line of it is enough.
        reason = printable(" ".join(str(error).split()))
        raise InputError(f"{path}: cannot be read as a statement: {reason}") from None
    if statement.organization != path.stem:
        raise InputError(f"{path}: holds the statement of another organization; it should be {path.stem}'s own")
    return statement


def _line(line: RoundLine) -> str:
    return json.dumps(asdict(line)) + "\n"

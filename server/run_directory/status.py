"""`status.json`: the progress of a run, for processes that follow it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from server.run_directory.files import as_json, read_as, write

# A run directory may come from another party: its files are checked as strictly as messages from the network.
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class Status:
    """The contents of `status.json`.

    Attributes:
        state: "waiting" for organizations, "running", "complete" or "failed".
        round: the current round.
        organizations: connected, or asked in the current round.
        answered: that answered in the current round.
        reason: of a failure.
        flower_run: Flower's id of the run.
    """

    __pydantic_config__ = _STRICT
    state: str
    round: int = 0
    organizations: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    reason: str = ""
    # Passed on as an argument of a command.
    flower_run: Annotated[str, Field(pattern="^[0-9]*$")] = ""


class StatusFile:
    """Reads and writes `status.json`.

    Args:
        path: of the file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, status: Status) -> None:
        """Write the status."""
        write(self._path, as_json(asdict(status)))

    def read(self) -> Status | None:
        """Read the status; None if there is none yet.

        Raises:
            InputError: the file is malformed.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return read_as(Status, data, self._path)

    def delete(self) -> None:
        """Delete the status before the run is started or resumed."""
        self._path.unlink(missing_ok=True)

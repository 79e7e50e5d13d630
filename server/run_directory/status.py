"""`status.json`: how far a run is, for processes that watch it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from server.run_directory.files import as_json, read_as, write

# A directory may have come from somebody else: what its files hold is checked like what comes over the network.
_STRICT = ConfigDict(strict=True, extra="forbid")


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


class StatusFile:
    """The file.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, status: Status) -> None:
        """Say how far the run is."""
        write(self._path, as_json(asdict(status)))

    def read(self) -> Status | None:
        """How far the run is; None before anything was said.

        Raises:
            InputError: the file holds no status.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return read_as(Status, data, self._path)

    def forget(self) -> None:
        """Before the run is started or continued: what was said earlier no longer holds."""
        self._path.unlink(missing_ok=True)

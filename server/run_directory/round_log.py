"""`rounds.jsonl`: a line for each round. Line 0 is round 0, the base model."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict

from common.settings import Section
from server.run_directory.files import read_as, write

# A directory may have come from somebody else: what its files hold is checked like what comes over the network.
_STRICT = ConfigDict(strict=True, extra="forbid")


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


class RoundLog:
    """The file.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[RoundLine]:
        """All lines; a last one that was cut off is not counted.

        Raises:
            InputError: a line is none of a round.
        """
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        return [read_as(RoundLine, line, self._path) for line in lines if line.endswith(b"\n")]

    def forget_after(self, number: int) -> list[RoundLine]:
        """Drop lines of rounds that have no checkpoint, before they are run again.

        Returns:
            The lines that stay.
        """
        kept = [line for line in self.lines() if line.round <= number]
        write(self._path, "".join(_text(line) for line in kept).encode())
        return kept

    def append(self, line: RoundLine) -> None:
        """Add a line, durably."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_text(line))
            file.flush()
            os.fsync(file.fileno())


def _text(line: RoundLine) -> str:
    return json.dumps(asdict(line)) + "\n"

"""`rounds.jsonl`: one line per round, beginning with round 0, the base model."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from common.run.round_line import RoundLine
from server.run_directory.files import read_as, write


class RoundLog:
    """Reads and writes `rounds.jsonl`.

    Args:
        path: of the file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[RoundLine]:
        """Read all lines; an incomplete last line is ignored.

        Raises:
            InputError: a line is malformed.
        """
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        return [read_as(RoundLine, line, self._path) for line in lines if line.endswith(b"\n")]

    def drop_after(self, number: int) -> list[RoundLine]:
        """Drop the lines of later rounds, which have no checkpoint and will be repeated.

        Args:
            number: the last round to keep.

        Returns:
            The remaining lines.
        """
        kept = [line for line in self.lines() if line.round <= number]
        write(self._path, "".join(_text(line) for line in kept).encode())
        return kept

    def append(self, line: RoundLine) -> None:
        """Append a line and flush it to disk."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_text(line))
            file.flush()
            os.fsync(file.fileno())


def _text(line: RoundLine) -> str:
    return json.dumps(asdict(line)) + "\n"

"""The findings of `sotto client check`: one file per group of checks. None of these files prints."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, TypeVar

from common.errors import SottoError

State = Literal["ok", "warning", "wrong"]
T = TypeVar("T")

# Yields findings as they are produced and returns what was read on the way, for later checks to use.
Findings = Generator["Finding", None, T]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        group: the subject: "records", "model", "device", "ledger", "plan" or "connection".
        name: what was checked.
        state: "ok"; "warning": it works, but should be reviewed; "wrong": it does not work.
        text: what was found and what to do about it, in one line.
    """

    group: str
    name: str
    state: State
    text: str


@dataclass(frozen=True)
class Group:
    """Creates the findings of one group.

    Attributes:
        name: the group's name.
    """

    name: str

    def ok(self, name: str, text: str) -> Finding:
        """It works."""
        return Finding(self.name, name, "ok", text)

    def warning(self, name: str, text: str) -> Finding:
        """It works, but should be reviewed."""
        return Finding(self.name, name, "warning", text)

    def wrong(self, name: str, text: str) -> Finding:
        """It does not work."""
        return Finding(self.name, name, "wrong", text)

    def run(self, name: str, checks: Findings[T]) -> Findings[T | None]:
        """Run some checks. An error ends them and becomes a finding itself, so that the other checks still run.

        Args:
            name: what is checked; the name of the finding that an error becomes.
            checks: a generator of findings that has not been started.

        Returns:
            The return value of the checks; None after an error.
        """
        try:
            return (yield from checks)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic in a Rust extension is not an Exception
            yield self.wrong(name, error_line(error))
            return None


def error_line(error: BaseException) -> str:
    """An error as one line. An unexpected error is prefixed with its type: its text alone may say little."""
    line = next(iter(str(error).strip().splitlines()), "")
    return line if isinstance(error, SottoError) else f"{type(error).__name__}: {line}".removesuffix(": ")

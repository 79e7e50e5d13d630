"""What `sotto client check` looks at, one file a group. Each finding is a `Check`; none of these files prints."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, TypeVar

from common.errors import SottoError

State = Literal["ok", "warning", "wrong"]
T = TypeVar("T")

# Findings as they are made, and at the end what was read on the way, for the checks that come after.
Checks = Generator["Check", None, T]


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        group: what it is about: "records", "model", "device", "ledger", "plan" or "connection".
        name: what was looked at.
        state: "ok"; "warning": it works, but look at it; "wrong": it does not work.
        text: what was found, and what to do. One line.
    """

    group: str
    name: str
    state: State
    text: str


@dataclass(frozen=True)
class Group:
    """Makes the findings of one group.

    Attributes:
        name: of the group.
    """

    name: str

    def ok(self, name: str, text: str) -> Check:
        """All is well."""
        return Check(self.name, name, "ok", text)

    def warning(self, name: str, text: str) -> Check:
        """It works, but somebody should look at it."""
        return Check(self.name, name, "warning", text)

    def wrong(self, name: str, text: str) -> Check:
        """It does not work."""
        return Check(self.name, name, "wrong", text)

    def look(self, name: str, checks: Checks[T]) -> Checks[T | None]:
        """Make some checks. An error ends them and is a finding itself, so that the other checks go on.

        Args:
            name: what is looked at, for that finding.
            checks: not begun yet.

        Returns:
            What they return; None after an error.
        """
        try:
            return (yield from checks)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic in a Rust library is no Exception
            yield self.wrong(name, error_line(error))
            return None


def error_line(error: BaseException) -> str:
    """An error as one line; one that was not foreseen with its type, without which its text may say nothing."""
    line = next(iter(str(error).strip().splitlines()), "")
    return line if isinstance(error, SottoError) else f"{type(error).__name__}: {line}".removesuffix(": ")

"""Which plans an organization has approved, and for how many runs: a text file that commands write.

Each line is one plan: its digest, its name, the time of the approval, and the total number of runs of this plan
that the ledger may hold. Runs used are counted from the ledger, never here. A line of three columns, as earlier
versions wrote it, approves one run in total. Empty lines and lines that start with # are kept.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.errors import InputError, Refused
from common.plan.plan import NAME_PATTERN, Plan
from common.settings import LARGEST_COUNT
from common.system.lock import Held, exclusive

_LOCK_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Approval:
    """The approval of a plan.

    Attributes:
        digest: of the plan.
        name: of the plan.
        at: when it was approved last, in ISO 8601.
        total: the number of runs of the plan that the ledger may hold.
    """

    digest: str
    name: str
    at: str
    total: int

    def left(self, used: int) -> int:
        """How many new runs are approved.

        Args:
            used: the number of runs of the plan in the ledger.
        """
        return max(self.total - used, 0)

    def to_line(self) -> str:
        """Convert to a line of the file."""
        return f"{self.digest} {self.name} {self.at} {self.total}"

    @classmethod
    def from_line(cls, line: str) -> Approval:
        """The inverse of `to_line`.

        Raises:
            ValueError: the line is not an approval.
        """
        columns = line.split()
        if len(columns) == 3:
            columns.append("1")
        digest, name, at, total = columns
        datetime.fromisoformat(at)
        if not (
            re.fullmatch("[0-9a-f]{64}", digest)
            and re.fullmatch(NAME_PATTERN, name)
            and re.fullmatch("[1-9][0-9]{0,9}", total)
            and int(total) <= LARGEST_COUNT
        ):
            raise ValueError("not an approval")
        return cls(digest, name, at, int(total))


class Approvals:
    """The file of approved plans. It is read at every call.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Approval]:
        """The approvals by the digests of their plans, in the order of the file.

        Raises:
            InputError: the file cannot be read, or a line of it is not an approval.
        """
        found: dict[str, Approval] = {}
        for number, line in enumerate(self._lines(), start=1):
            if not _is_approval(line):
                continue
            try:
                approval = Approval.from_line(line)
            except ValueError:
                # The line is not quoted: the vault logs this text, and the path may be that of the records.
                raise InputError(
                    f"{self._path}: line {number} is not an approval: it should be the digest of a plan, its "
                    "name, the time and a number of runs, separated by spaces"
                ) from None
            if approval.digest in found:
                raise InputError(
                    f"{self._path}: line {number}: the plan {approval.digest} occurs twice; remove one of its "
                    "lines"
                )
            found[approval.digest] = approval
        return found

    def check(self, plan: Plan, used: int) -> None:
        """Check that one more run of a plan is approved.

        Args:
            plan: the plan.
            used: the number of runs of the plan in the ledger.

        Raises:
            Refused: it is not, or the file cannot be read; the reason is in the log.
        """
        name = f"plan {plan.name}, digest {plan.digest()[:12]}"
        try:
            approval = self.read().get(plan.digest())
        except InputError as error:
            _log.error("%s", error)
            raise Refused("plan-not-approved", name) from None
        if approval is None:
            raise Refused("plan-not-approved", f"{name}: it is not approved")
        if not approval.left(used):
            raise Refused("plan-not-approved", f"{name}: its approved runs are used up")

    def add(self, plan: Plan, runs: int, used: int) -> Approval:
        """Approve more runs of a plan, in addition to those that are approved and not yet used.

        Args:
            plan: the plan.
            runs: the number of runs, from 1.
            used: the number of runs of the plan in the ledger.

        Raises:
            InputError: the file cannot be read or written.
        """
        if runs < 1:
            raise InputError(f"runs = {runs}: an approval should cover at least 1 run")
        digest = plan.digest()
        with self._editing() as lines:
            earlier = self.read().get(digest)
            total = max(earlier.total if earlier else 0, used) + runs
            if total > LARGEST_COUNT:
                raise InputError(f"runs = {runs}: {total} runs in total; there can be at most {LARGEST_COUNT}")
            approval = Approval(digest, plan.name, datetime.now(UTC).isoformat(timespec="seconds"), total)
            _replace_line(lines, digest, approval.to_line())
        return approval

    def withdraw(self, digest: str) -> None:
        """Remove the approval of a plan, if there is one.

        Raises:
            InputError: the file cannot be read or written.
        """
        with self._editing() as lines:
            if digest in self.read():
                _replace_line(lines, digest, None)

    def _lines(self) -> list[str]:
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        except UnicodeDecodeError:
            raise InputError(f"{self._path}: cannot be read: it is not UTF-8 text") from None
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read: {error}") from None
        return lines if lines[-1] else lines[:-1]

    @contextmanager
    def _editing(self) -> Iterator[list[str]]:
        """The lines of the file, written back at the end of the context; no other command can edit meanwhile."""
        try:
            # Of a symbolic link, the target is replaced.
            path = self._path.resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(path, _LOCK_SECONDS):
                lines = self._lines()
                before = list(lines)
                yield lines
                if lines != before:
                    _write(path, "".join(f"{line}\n" for line in lines))
        except Held as held:
            raise InputError(f"{self._path}: another command, process {held.holder}, is changing it") from None
        except (OSError, RuntimeError) as error:  # a symlink loop is a RuntimeError
            raise InputError(f"{self._path}: cannot be written: {error}") from None


def _is_approval(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _replace_line(lines: list[str], digest: str, new: str | None) -> None:
    """Replace the line of a plan, or add one; None removes it."""
    places = [number for number, line in enumerate(lines) if _is_approval(line) and line.split()[0] == digest]
    at = places[0] if places else len(lines)
    lines[at : at + 1] = [] if new is None else [new]


def _write(path: Path, text: str) -> None:
    """Replace the file atomically; the new one has the permissions and the owner of the old one."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)  # left by a process that was killed
    with part.open("x", encoding="utf-8") as file:
        # Run as root, a command must not leave a file that the vault's user cannot read.
        if path.exists():
            old, new = path.stat(), part.stat()
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

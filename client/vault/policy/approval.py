"""Which plans an organization has approved: a file of digests that its administrator writes with a command."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from common.errors import InputError
from common.plan.plan import Plan


class Approvals:
    """The approved plans, one per line: digest, name, time.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __contains__(self, plan: Plan) -> bool:
        """Whether a plan with exactly this digest is approved. The file is read at every call."""
        return plan.digest() in self._digests()

    def add(self, plan: Plan) -> None:
        """Approve a plan; repeating an approval changes nothing."""
        if plan in self:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{plan.digest()} {plan.name} {datetime.now(UTC).isoformat(timespec='seconds')}\n")

    def _digests(self) -> set[str]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return set()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self._path}: cannot be read: {error}") from None
        return {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}

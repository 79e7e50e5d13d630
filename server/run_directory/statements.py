"""`privacy/statements` and `privacy/keys`: what organizations state of a run, and the keys to verify it with."""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError
from common.keys.statement_key import public_line, read_keys
from common.protocol.statement import Statement
from common.untrusted import printable, read_json
from server.run_directory.files import as_json, write


class Statements:
    """The files.

    Args:
        folder: of both folders, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._statements, self._keys = folder / "statements", folder / "keys"

    def write(self, statement: Statement) -> None:
        """Store what an organization says that the run costs it."""
        write(self._statements / f"{statement.organization}.json", as_json(statement.to_dict()))

    def read(self) -> list[Statement]:
        """All stored statements, by organization.

        Raises:
            InputError: a file holds no statement, or another organization's.
        """
        return [_read_statement(file) for file in sorted(self._statements.glob("*.json"))]

    def write_key(self, organization: str, public: str) -> None:
        """Store the key with which an organization was registered when the run ended."""
        write(self._keys / f"{organization}.pub", public_line(public, organization).encode())

    def keys(self) -> dict[str, str]:
        """Organization → its registered key, as it was when the run ended."""
        return read_keys(self._keys)


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

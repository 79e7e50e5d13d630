"""`privacy/statements` and `privacy/keys`: the organizations' statements, and the keys that verify them."""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError
from common.keys.statement_key import public_line, read_keys
from common.protocol.statement import Statement
from common.untrusted import printable, read_json
from server.run_directory.files import as_json, write


class Statements:
    """Reads and writes both folders.

    Args:
        folder: that contains both; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._statements, self._keys = folder / "statements", folder / "keys"

    def write(self, statement: Statement) -> None:
        """Write an organization's statement."""
        write(self._statements / f"{statement.organization}.json", as_json(statement.to_dict()))

    def read(self) -> list[Statement]:
        """Read all statements, in the order of the organizations' names.

        Raises:
            InputError: a file is malformed, or contains the statement of another organization.
        """
        return [_read_statement(file) for file in sorted(self._statements.glob("*.json"))]

    def write_key(self, organization: str, public: str) -> None:
        """Write an organization's registered key as of the end of the run."""
        write(self._keys / f"{organization}.pub", public_line(public, organization).encode())

    def keys(self) -> dict[str, str]:
        """Return organization → its registered key as of the end of the run."""
        return read_keys(self._keys)


def _read_statement(path: Path) -> Statement:
    try:
        statement = Statement.from_dict(read_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        # The message may quote the organization's text: printed as one safe line.
        reason = printable(" ".join(str(error).split()))
        raise InputError(f"{path}: cannot be read as a statement: {reason}") from None
    if statement.organization != path.stem:
        raise InputError(f"{path}: holds the statement of another organization; it should be {path.stem}'s own")
    return statement

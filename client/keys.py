"""`sotto client keys`: an organization's keys, made at home. Private halves never leave it."""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError
from common.signing import StatementKey, public_line

STATEMENT_KEY = "statement.key"


def make_keys(folder: Path, name: str) -> Path:
    """Make a statement key and write both halves; nothing is ever overwritten.

    Args:
        folder: gets `statement.key`, readable by its owner alone, and `statement.pub`.
        name: of the organization, as the public half's comment.

    Returns:
        The file of the public half, which the coordinator registers.

    Raises:
        InputError: there is a key already, or the folder cannot be written.
    """
    private, public = folder / STATEMENT_KEY, folder / "statement.pub"
    key = StatementKey.generate()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key.write(private)
        public.write_text(public_line(key.public, name), encoding="ascii")
    except FileExistsError:
        raise InputError(
            f"{private}: exists already; a ledger is bound to its key, so it is not replaced"
        ) from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None
    return public

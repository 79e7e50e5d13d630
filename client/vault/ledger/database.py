"""The ledger's file: an SQLite database whose tables can only grow."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TABLES = (
    """
CREATE TABLE chain (
    number INTEGER PRIMARY KEY, entry TEXT NOT NULL, digest TEXT NOT NULL, signature TEXT NOT NULL
) STRICT;
""",
    """
CREATE TABLE releases (
    run TEXT NOT NULL, round INTEGER NOT NULL, request TEXT NOT NULL, released BLOB NOT NULL,
    PRIMARY KEY (run, round)
) STRICT;
""",
)
_APPEND_ONLY = tuple(
    f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;"
    for table in ("chain", "releases")
    for verb in ("UPDATE", "DELETE")
)


class Database:
    """The tables of a ledger.

    Args:
        path: the file.
        writable: whether the file may be created and written. A read-only connection does not block a vault that
            writes, and is not blocked by it.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        # One thread trains, others ask for statements; the lock makes their multi-step operations atomic.
        self._lock = threading.RLock()
        address = str(path) if writable else f"{path.absolute().as_uri()}?mode=ro"
        # Isolation level None: only `transaction` begins and ends transactions.
        self._connection = sqlite3.connect(
            address, isolation_level=None, timeout=30, check_same_thread=False, uri=not writable
        )
        if writable:
            self._connection.execute("PRAGMA synchronous = EXTRA")

    @property
    def is_new(self) -> bool:
        """Whether there are no tables yet."""
        return not self.rows("SELECT 1 FROM sqlite_master")

    def create_tables(self) -> None:
        """Create the tables, and the triggers that refuse any change or removal of a row."""
        for statement in (*_TABLES, *_APPEND_ONLY):
            self.rows(statement)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the context; roll back after any error. Transactions cannot be nested."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:  # also on KeyboardInterrupt: roll back
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Execute an SQL statement with parameters and return its rows."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

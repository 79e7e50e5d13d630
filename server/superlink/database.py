"""Read-only access to the SuperLink's database: is there anything to request from the SuperLink?

Flower's programs poll the SuperLink, and each request costs milliseconds. Checking its database costs
microseconds: SQLite reports whether anything was written, and only then a query is run. One process polls
(`ChangeWatcher`) and signals the others. The result is only a hint: what a node or a SuperExec receives is decided
by the SuperLink. Tables and columns are those of one version of flwr; with another version queries fail, and
callers poll the SuperLink.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from common.system.wakeup import Wakeup

_UNSIGNED = 2**64
# The SuperLink's writes take milliseconds; its write-ahead log does not block readers.
_BUSY_SECONDS = 0.1

POLL_SECONDS = 0.5
"""Longest time between two checks of a process that waits for a wake-up signal."""


class Query(StrEnum):
    """Queries for pending work in the database."""

    MESSAGES = "SELECT DISTINCT dst_node_id FROM message_ins WHERE delivered_at = '' AND created_at + ttl > :now"
    """Nodes with messages that they have not pulled yet."""
    TASKS = "SELECT task_id FROM task WHERE starting_at IS NULL AND finished_at IS NULL"
    """Tasks of runs that have no ServerApp yet."""
    ANYTHING = "SELECT 0"
    """Detects any change."""


class Database:
    """The SuperLink's database; not thread-safe.

    Args:
        path: of the file.
        query: for pending work.

    Attributes:
        changes: how many times the query was run because the database had changed.
    """

    def __init__(self, path: Path, query: Query) -> None:
        self._address = f"{path.absolute().as_uri()}?mode=ro"
        self._query = query
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None
        self._pending: frozenset[int] = frozenset()
        self.changes = 0

    def pending(self) -> frozenset[int]:
        """Return Flower's ids of all pending work.

        Raises:
            sqlite3.Error: the database cannot be read, or is of another version. The next call reopens it.
        """
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._address, _BUSY_SECONDS, isolation_level=None, uri=True)
            # All rows are fetched: an open statement would block the SuperLink's checkpoints of the log.
            ((version,),) = self._connection.execute("PRAGMA data_version").fetchall()
            if version != self._version:
                rows = self._connection.execute(self._query, {"now": time.time()}).fetchall()
                # Integers are signed in SQLite and unsigned in Flower.
                self._pending = frozenset(number % _UNSIGNED for (number,) in rows)
                self._version = version
                self.changes += 1
        except sqlite3.Error:
            self.close()
            raise
        return self._pending

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._version = None, None


class ChangeWatcher:
    """Signals when the database has changed since the last call.

    Args:
        path: of the database.
        wakeups: signalled at a change; their owners then query the database.
    """

    def __init__(self, path: Path, wakeups: Sequence[Wakeup]) -> None:
        self._database = Database(path, Query.ANYTHING)
        self._wakeups = wakeups
        self._changes = 0

    def __call__(self) -> None:
        """Check once."""
        # Signalled also if the database cannot be read: the waiting processes then fall back to polling.
        with suppress(sqlite3.Error):
            self._database.pending()
            if self._database.changes == self._changes:
                return
        self._changes = self._database.changes
        for wakeup in self._wakeups:
            wakeup.signal()

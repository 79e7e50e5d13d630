"""The SuperLink's own database, looked into: whether there is something to ask the SuperLink for.

Flower's programs ask it again and again, and each of those requests costs milliseconds. A look at its database
costs microseconds: SQLite says whether anything was written since, and only then is a question asked. One process
looks (`Watch`) and rings for those who wait. Nothing is ever written here, and what is found is a hint: what a
node or a SuperExec gets is still the SuperLink's to say. Tables and columns are those of one version of flwr; with
another, a look fails, and who looks asks as before.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from common.system.bell import Bell

_UNSIGNED = 2**64
# The SuperLink's writes take milliseconds; in its write-ahead log they hold up nobody who reads.
_BUSY_SECONDS = 0.1

LOOK_SECONDS = 0.5
"""How long who waits for a bell goes without a look, should it not ring."""


class Waiting(StrEnum):
    """What can be waiting in the database, as the question that finds it."""

    MESSAGES = "SELECT DISTINCT dst_node_id FROM message_ins WHERE delivered_at = '' AND created_at + ttl > :now"
    """Messages that no node has pulled yet: the nodes."""
    TASKS = "SELECT task_id FROM task WHERE starting_at IS NULL AND finished_at IS NULL"
    """Runs that have no ServerApp yet: their tasks."""
    ANYTHING = "SELECT 0"
    """Whatever there is."""


class Database:
    """The SuperLink's database, to be looked at by one thread.

    Args:
        path: of the file.
        question: what to look for.

    Attributes:
        changes: how often the answer was read anew.
    """

    def __init__(self, path: Path, question: Waiting) -> None:
        self._address = f"{path.absolute().as_uri()}?mode=ro"
        self._question = question
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None
        self._found: frozenset[int] = frozenset()
        self.changes = 0

    def look(self) -> frozenset[int]:
        """Flower's numbers of all that is waiting now.

        Raises:
            sqlite3.Error: the database cannot be read, or is another version's. The next look opens it anew.
        """
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._address, _BUSY_SECONDS, isolation_level=None, uri=True)
            # All rows are fetched: a statement that is not at its end would keep the SuperLink from tidying up.
            ((version,),) = self._connection.execute("PRAGMA data_version").fetchall()
            if version != self._version:
                rows = self._connection.execute(self._question, {"now": time.time()}).fetchall()
                # SQLite's numbers have a sign, Flower's have none.
                self._found = frozenset(number % _UNSIGNED for (number,) in rows)
                self._version = version
                self.changes += 1
        except sqlite3.Error:
            self.close()
            raise
        return self._found

    def close(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._version = None, None


class Watch:
    """Rings bells when the database changed since it was called last.

    Args:
        path: of the database.
        bells: whose owners look themselves.
    """

    def __init__(self, path: Path, bells: Sequence[Bell]) -> None:
        self._database = Database(path, Waiting.ANYTHING)
        self._bells = bells
        self._changes = 0

    def __call__(self) -> None:
        """Look once."""
        # Where nothing can be seen, nobody is kept waiting: they fail to look, too, and know what to do then.
        with suppress(sqlite3.Error):
            self._database.look()
            if self._database.changes == self._changes:
                return
        self._changes = self._database.changes
        for bell in self._bells:
            bell.ring()

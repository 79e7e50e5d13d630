"""The ledger: an organization's durable record of every run it reserved and every release it made.

Three rules. A run is charged whole, before its first gradient. A release is stored in the transaction that
settles its round, and only then answered. Nothing is ever changed or removed: a crash can only over-count.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.accounting import total, within_lifetime
from common.errors import InputError, Refused
from common.mechanism import Mechanism

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE runs (
    run TEXT PRIMARY KEY, reserved_at TEXT NOT NULL, plan TEXT NOT NULL, fingerprint TEXT NOT NULL,
    mechanism TEXT NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL, rounds INTEGER NOT NULL
) STRICT;
CREATE TABLE releases (
    run TEXT NOT NULL REFERENCES runs (run), round INTEGER NOT NULL, request TEXT NOT NULL,
    steps INTEGER NOT NULL, settled_at TEXT NOT NULL, released BLOB NOT NULL, PRIMARY KEY (run, round)
) STRICT;
"""
_APPEND_ONLY = "".join(
    f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;\n"
    for table in ("meta", "runs", "releases")
    for verb in ("UPDATE", "DELETE")
)


@dataclass(frozen=True)
class Reservation:
    """A run as it was charged.

    Attributes:
        run: the run's id.
        plan: digest of the plan's agreement.
        fingerprint: of the base model.
        mechanism: all steps of all rounds.
        epsilon, delta: what the whole run costs.
        rounds: how many rounds may be answered.
    """

    run: str
    plan: str
    fingerprint: str
    mechanism: Mechanism
    epsilon: float
    delta: float
    rounds: int


class Ledger:
    """An organization's ledger in one SQLite file.

    Args:
        path: made if it is missing.
        organization: its name, fixed when the file is made.
        unit: what it protects, fixed when the file is made.

    Raises:
        InputError: the file is another organization's, of another unit, or not a ledger.
    """

    def __init__(self, path: Path, organization: str, unit: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        # One thread trains, others ask for statements; each takes the lock for what belongs together.
        self._lock = threading.RLock()
        # Isolation level None: transactions are begun and ended by `_transaction` alone.
        try:
            self._database = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            self._database.execute("PRAGMA synchronous = EXTRA")
            self._database.execute("PRAGMA foreign_keys = ON")
            with self._transaction():
                if not self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
                    self._create(organization, unit)
            held = dict(self._database.execute("SELECT key, value FROM meta").fetchall())
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: not a ledger: {error}") from None
        for key, value in (("version", str(_SCHEMA_VERSION)), ("organization", organization), ("unit", unit)):
            if held.get(key) != value:
                raise InputError(f"{path}: a ledger with {key} = {held.get(key)!r}; {value!r} was expected")

    def _create(self, organization: str, unit: str) -> None:
        for statement in _SCHEMA.split(";\n"):
            self._database.execute(statement)
        for statement in _APPEND_ONLY.strip().split("\n"):
            self._database.execute(statement)
        rows = {
            "version": str(_SCHEMA_VERSION),
            "organization": organization,
            "unit": unit,
            "created_at": _now(),
        }
        self._database.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def find(self, run: str) -> Reservation | None:
        """A run's reservation, if there is one."""
        rows = self._rows(
            "SELECT run, plan, fingerprint, mechanism, epsilon, delta, rounds FROM runs WHERE run = ?", run
        )
        if not rows:
            return None
        run_id, plan, fingerprint, mechanism, epsilon, delta, rounds = rows[0]
        return Reservation(
            run_id, plan, fingerprint, Mechanism.from_dict(json.loads(mechanism)), epsilon, delta, rounds
        )

    def reserve(self, reservation: Reservation, cap: tuple[float, float]) -> Reservation:
        """Charge a whole run, durably. The same reservation again changes nothing.

        Args:
            reservation: the run and its cost.
            cap: (ε, δ) over all runs, for ever.

        Returns:
            The run as it was charged: the earlier reservation if there is one.

        Raises:
            Refused: the run was reserved for another plan, or the cap does not cover it; nothing is spent.
        """
        with self._transaction():
            earlier = self.find(reservation.run)
            if earlier is not None:
                if (earlier.plan, earlier.fingerprint) != (reservation.plan, reservation.fingerprint):
                    raise Refused("plan-changed", f"run {reservation.run} was reserved for another plan or model")
                return earlier
            spent = self.spent_by_run()
            if not within_lifetime(spent, (reservation.epsilon, reservation.delta), cap):
                raise Refused(
                    "budget",
                    f"the run costs (ε, δ) = ({reservation.epsilon}, {reservation.delta}); "
                    f"({total(run[0] for run in spent)}, {total(run[1] for run in spent)}) "
                    f"of ({cap[0]}, {cap[1]}) are spent",
                )
            self._database.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (reservation.run, _now(), reservation.plan, reservation.fingerprint,
                 json.dumps(reservation.mechanism.to_dict(), sort_keys=True),
                 reservation.epsilon, reservation.delta, reservation.rounds),
            )  # fmt: skip
        return reservation

    def released(self, run: str, round_number: int, request: str) -> bytes | None:
        """The stored release of a round, if it was settled for this very request.

        Args:
            run: the run's id.
            round_number: from 1.
            request: the request's digest.

        Raises:
            Refused: the round was settled for another request.
        """
        rows = self._rows("SELECT request, released FROM releases WHERE run = ? AND round = ?", run, round_number)
        if not rows:
            return None
        answered, stored = rows[0]
        if answered != request:
            raise Refused("round-conflict", f"round {round_number} of {run} was answered for another request")
        return bytes(stored)

    def settle(self, run: str, round_number: int, request: str, steps: int, released: bytes) -> None:
        """Store a round's release and its settlement, durably and together. Only then may it be answered."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?, ?, ?)",
                (run, round_number, request, steps, _now(), released),
            )

    def spent_by_run(self) -> list[tuple[float, float]]:
        """(ε, δ) of every run that was ever reserved."""
        return self._rows("SELECT epsilon, delta FROM runs ORDER BY rowid")

    def settled_rounds(self, run: str) -> list[int]:
        """The rounds of a run that were released."""
        return [row[0] for row in self._rows("SELECT round FROM releases WHERE run = ? ORDER BY round", run)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

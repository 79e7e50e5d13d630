"""The ledger: an organization's durable record of every run it reserved and every release it made.

Three rules. A run is charged whole, before its first gradient. A release is stored in the transaction that
settles its round, and only then answered. Nothing is ever changed or removed: a crash can only over-count.

Every entry is a link of a signed chain, see `chain.py`. The chain's head goes out with every answer and
comes back with every request.

A ledger belongs to a data set, by an id that it creates, not to a path: a changed file of records resets nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.vault.ledger.chain import SCHEMA, Chain, LedgerError
from client.vault.ledger.reservation import Reservation
from common.errors import InputError, Refused
from common.keys.statement_key import StatementKey
from common.privacy.privacy_filter import Cap, Composition, Cost
from common.protocol.statement import Head

_VERSION = 2
_RELEASES = """
CREATE TABLE releases (
    run TEXT NOT NULL, round INTEGER NOT NULL, request TEXT NOT NULL, released BLOB NOT NULL,
    PRIMARY KEY (run, round)
) STRICT;
"""
_APPEND_ONLY = "".join(
    f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;\n"
    for table in ("chain", "releases")
    for verb in ("UPDATE", "DELETE")
)


class Ledger:
    """An organization's ledger in one SQLite file.

    Args:
        path: made if it is missing.
        organization: its name, fixed when the file is made.
        unit: what it protects, fixed when the file is made.
        key: signs each entry; its public half is fixed when the file is made. None in a simulation, and for
            looking with whatever key the ledger names.
        composition: how the costs of runs are added up, fixed when the file is made.
        create: False to look only: the file is neither made, written nor kept from the vault that uses it, and the
            newest entry's signature is checked with the key that the ledger names.

    Attributes:
        data_set: the id of the data that all its runs are charged to.

    Raises:
        InputError: the file is another organization's, of another unit or key, or not a ledger.
        LedgerError: an entry was changed or removed.
    """

    def __init__(
        self,
        path: Path,
        organization: str,
        unit: str,
        key: StatementKey | None = None,
        *,
        composition: Composition = "basic",
        create: bool = True,
    ) -> None:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise InputError(f"{path}: there is no ledger; the vault makes it when it starts")
        self._path = path
        self._key = key
        self._chain = Chain(self._rows, path, key)
        # One thread trains, others ask for statements; each takes the lock for what belongs together.
        self._lock = threading.RLock()
        # Isolation level None: transactions are begun and ended by `_transaction` alone.
        address = str(path) if create else f"{path.absolute().as_uri()}?mode=ro"
        try:
            self._database = sqlite3.connect(
                address, isolation_level=None, timeout=30, check_same_thread=False, uri=not create
            )
            if create:
                self._database.execute("PRAGMA synchronous = EXTRA")
                with self._transaction():
                    if not self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
                        self._create(organization, unit, composition)
            # One transaction: entries and releases as they are at one moment, also while a vault writes. Where the
            # file is opened to look only, SQLite makes it one that reads and waits for nobody.
            with self._transaction():
                entries = self._chain.walk()
                self._check_releases(entries)
        except sqlite3.DatabaseError as error:
            if not create and getattr(error, "sqlite_errorname", "").startswith("SQLITE_READONLY"):
                raise InputError(
                    f"{path}: its vault was killed while it wrote; start it, which mends this"
                ) from None
            raise InputError(f"{path}: cannot be used as a ledger: {error}") from None
        beginning = entries[0]
        expected = {
            "version": _VERSION,
            "organization": organization,
            "unit": unit,
            "composition": composition,
            "key": beginning.get("key") if key is None and not create else self.public_key,
        }
        for name, value in expected.items():
            if beginning.get(name) != value:
                raise InputError(f"{path}: a ledger with {name} = {beginning.get(name)!r}; {value!r} was expected")
        self.data_set = str(beginning["data_set"])

    @property
    def public_key(self) -> str:
        """Public half of the statement key; empty without one."""
        return "" if self._key is None else self._key.public

    def _create(self, organization: str, unit: str, composition: str) -> None:
        for statement in (SCHEMA, _RELEASES):
            self._database.execute(statement)
        for statement in _APPEND_ONLY.strip().split("\n"):
            self._database.execute(statement)
        self._chain.begin(
            {
                "kind": "ledger",
                "version": _VERSION,
                "organization": organization,
                "unit": unit,
                "composition": composition,
                "key": self.public_key,
                "data_set": secrets.token_hex(16),
                "at": _now(),
            }
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:  # whatever ends it, nothing of it stays
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

    def sign(self, message: bytes) -> str:
        """A signature with the statement key; empty without one."""
        return "" if self._key is None else self._key.sign(message)

    def _check_releases(self, entries: list[dict[str, Any]]) -> None:
        settled = {(e["run"], e["round"]): e["request"] for e in entries if e["kind"] == "release"}
        stored = {
            (run, number): request
            for run, number, request in self._rows("SELECT run, round, request FROM releases")
        }
        if settled != stored:
            raise LedgerError(f"{self._path}: the stored releases are not those of the ledger's entries")

    @property
    def head(self) -> Head:
        """The newest entry, signed."""
        return self._chain.head

    def check_seen(self, seen: Head | None) -> None:
        """Make sure that this ledger holds a head that it is said to have shown before.

        Raises:
            Refused: it is behind: an older copy was put back, or this is another ledger.
        """
        self._chain.check_seen(seen)

    # Runs

    def runs(self) -> list[Reservation]:
        """Every run that was ever reserved, in order."""
        return [Reservation.from_entry(entry) for entry in self._chain.entries("run")]

    def find(self, run: str) -> Reservation | None:
        """A run's reservation, if there is one."""
        return next((reservation for reservation in self.runs() if reservation.run == run), None)

    def reserve(self, reservation: Reservation, cap: Cap) -> Reservation:
        """Charge a whole run, durably. The same reservation again changes nothing.

        Args:
            reservation: the run and its cost.
            cap: over all runs, for ever.

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
            spent = self.spent()
            if not cap.covers([*spent, reservation.cost]):
                raise Refused(
                    "budget",
                    f"the run costs (ε, δ) = ({reservation.epsilon}, {reservation.delta}); {cap.describe(spent)}",
                )
            self._chain.append({"kind": "run", **reservation.to_entry(), "at": _now()})
        return reservation

    def spent(self) -> list[Cost]:
        """The cost of every run that was ever reserved."""
        return [reservation.cost for reservation in self.runs()]

    # Releases

    def released(self, run: str, round_number: int, request: str) -> bytes | None:
        """The stored release of a round, if it was settled for this very request.

        Args:
            run: the run's id.
            round_number: from 1.
            request: the request's digest.

        Raises:
            Refused: the round was settled for another request.
            LedgerError: the stored bytes are not those that were settled.
        """
        rows = self._rows("SELECT request, released FROM releases WHERE run = ? AND round = ?", run, round_number)
        if not rows:
            return None
        answered, stored = rows[0]
        if answered != request:
            raise Refused("round-conflict", f"round {round_number} of {run} was answered for another request")
        (entry,) = (e for e in self._chain.entries("release") if (e["run"], e["round"]) == (run, round_number))
        if hashlib.sha256(stored).hexdigest() != entry["sha256"]:
            raise LedgerError(f"{self._path}: the stored release of round {round_number} of {run} was changed")
        return bytes(stored)

    def settle(self, run: str, round_number: int, request: str, steps: int, released: bytes) -> None:
        """Store a round's release and its settlement, durably and together. Only then may it be answered.

        Raises:
            LedgerError: the run was never reserved.
        """
        with self._transaction():
            if self.find(run) is None:
                raise LedgerError(f"run {run} was never reserved; nothing of it may be released")
            self._database.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?)", (run, round_number, request, released)
            )
            self._chain.append(
                {
                    "kind": "release",
                    "run": run,
                    "round": round_number,
                    "request": request,
                    "steps": steps,
                    "sha256": hashlib.sha256(released).hexdigest(),
                    "at": _now(),
                }
            )

    def settled_rounds(self, run: str) -> list[int]:
        """The rounds of a run that were released."""
        return sorted(entry["round"] for entry in self._chain.entries("release") if entry["run"] == run)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

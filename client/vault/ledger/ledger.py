"""The ledger: an organization's durable record of all runs it has reserved and all updates it has released.

Three rules. The full cost of a run is charged before its first gradient. A release is stored in the transaction
that settles its round, and only then sent. No entry is ever changed or removed: a crash can only over-count.

Every entry is part of a signed hash chain, see `chain.py`. The head of the chain is sent with every answer and
returned with every request.

A ledger belongs to a data set, identified by an id that it generates, not to a path: replacing the file of records
resets nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.vault.ledger.cap import CapEntries
from client.vault.ledger.chain import Chain, LedgerError
from client.vault.ledger.database import Database
from client.vault.ledger.reservation import Reservation
from common.errors import InputError, Refused
from common.keys.statement_key import StatementKey
from common.privacy.privacy_filter import Composition, Cost
from common.protocol.statement import Head

_VERSION = 2


class Ledger:
    """An organization's ledger in one SQLite file.

    Args:
        path: the file; created if it is missing.
        organization: the organization's name, fixed when the file is created.
        unit: the unit of privacy, fixed when the file is created.
        key: signs each entry; its public key is fixed when the file is created. None in simulations, and for
            read-only access with the public key that the ledger contains.
        composition: how the costs of runs are added up, fixed when the file is created.
        create: False for read-only access: the file is neither created nor written, a vault that uses it is not
            blocked, and without `key` the newest signature is verified with the key that the ledger contains.

    Attributes:
        data_set: the id of the data that all runs are charged to.
        cap: the limit over all runs, for ever.

    Raises:
        InputError: the file is not a ledger, or has another organization, unit, composition or key.
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
            raise InputError(f"{path}: no such ledger; the vault creates it when it starts")
        self._path = path
        self._key = key
        try:
            self._database = Database(path, writable=create)
            self._chain = Chain(self._database.rows, path, key)
            if create:
                with self._database.transaction():
                    if self._database.is_new:
                        self._create(organization, unit, composition)
            # One transaction: a consistent snapshot of entries and releases even while a vault writes. On a
            # read-only connection, SQLite makes it a read transaction that waits for no writer.
            with self._database.transaction():
                entries = self._chain.verify()
                self._check_releases(entries)
        except sqlite3.DatabaseError as error:
            if not create and getattr(error, "sqlite_errorname", "").startswith("SQLITE_READONLY"):
                raise InputError(
                    f"{path}: its vault was killed during a write; start the vault to repair the ledger"
                ) from None
            raise InputError(f"{path}: cannot be used as a ledger: {error}") from None
        first = entries[0]
        expected = {
            "version": _VERSION,
            "organization": organization,
            "unit": unit,
            "composition": composition,
            "key": first.get("key") if key is None and not create else self.public_key,
        }
        for name, value in expected.items():
            if first.get(name) != value:
                raise InputError(f"{path}: the ledger has {name} = {first.get(name)!r}; it should be {value!r}")
        self.data_set = str(first["data_set"])
        self.cap = CapEntries(self._chain, self._database.transaction, composition, path)

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self._path

    @property
    def public_key(self) -> str:
        """The public statement key; empty without a key."""
        return "" if self._key is None else self._key.public

    def _create(self, organization: str, unit: str, composition: str) -> None:
        self._database.create_tables()
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

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def sign(self, message: bytes) -> str:
        """Sign a message with the statement key; an empty signature without a key."""
        return "" if self._key is None else self._key.sign(message)

    def _check_releases(self, entries: list[dict[str, Any]]) -> None:
        settled = {(e["run"], e["round"]): e["request"] for e in entries if e["kind"] == "release"}
        stored = {
            (run, number): request
            for run, number, request in self._database.rows("SELECT run, round, request FROM releases")
        }
        if settled != stored:
            raise LedgerError(f"{self._path}: the stored releases do not match the ledger's entries")

    @property
    def head(self) -> Head:
        """The newest entry, signed."""
        return self._chain.head

    def check_seen(self, seen: Head | None) -> None:
        """Check that this ledger contains a head that it is said to have sent earlier.

        Raises:
            Refused: it does not: an older copy was restored, or this is another ledger.
        """
        self._chain.check_seen(seen)

    # Runs

    def runs(self) -> list[Reservation]:
        """All runs that were ever reserved, in order."""
        return [Reservation.from_entry(entry) for entry in self._chain.entries("run")]

    def find(self, run: str) -> Reservation | None:
        """A run's reservation, if there is one."""
        return next((reservation for reservation in self.runs() if reservation.run == run), None)

    def reserve(self, reservation: Reservation) -> Reservation:
        """Charge the full cost of a run, durably. Repeating a reservation changes nothing.

        Args:
            reservation: the run and its cost.

        Returns:
            The run as it was charged: the existing reservation if there is one.

        Raises:
            Refused: the run was reserved with another plan or base model, or the ledger's cap does not cover it;
                nothing is spent.
            LedgerError: the ledger has no cap.
        """
        with self._database.transaction():
            existing = self.find(reservation.run)
            if existing is not None:
                if (existing.plan, existing.fingerprint) != (reservation.plan, reservation.fingerprint):
                    raise Refused(
                        "plan-changed", f"run {reservation.run} was reserved with another plan or base model"
                    )
                return existing
            cap, spent = self.cap.required(), self.spent()
            if not cap.covers([*spent, reservation.cost]):
                raise Refused(
                    "budget",
                    f"the run costs (ε, δ) = ({reservation.epsilon}, {reservation.delta}); {cap.describe(spent)}",
                )
            self._chain.append({"kind": "run", **reservation.to_entry(), "at": _now()})
        return reservation

    def spent(self) -> list[Cost]:
        """The costs of all runs that were ever reserved."""
        return [reservation.cost for reservation in self.runs()]

    # Releases

    def released(self, run: str, round_number: int, request: str) -> bytes | None:
        """The stored release of a round; None if the round is not settled.

        Args:
            run: the run's id.
            round_number: from 1.
            request: the request's digest.

        Raises:
            Refused: the round was settled for another request.
            LedgerError: the stored release was changed after it was settled.
        """
        rows = self._database.rows(
            "SELECT request, released FROM releases WHERE run = ? AND round = ?", run, round_number
        )
        if not rows:
            return None
        settled_request, stored = rows[0]
        if settled_request != request:
            raise Refused("round-conflict", f"round {round_number} of {run} was settled for another request")
        (entry,) = (e for e in self._chain.entries("release") if (e["run"], e["round"]) == (run, round_number))
        if hashlib.sha256(stored).hexdigest() != entry["sha256"]:
            raise LedgerError(f"{self._path}: the stored release of round {round_number} of {run} was changed")
        return bytes(stored)

    def settle(self, run: str, round_number: int, request: str, steps: int, released: bytes) -> None:
        """Store a round's release and its settlement, durably and atomically. Only then may the release be sent.

        Raises:
            LedgerError: the run was never reserved.
        """
        with self._database.transaction():
            if self.find(run) is None:
                raise LedgerError(f"run {run} was never reserved; nothing may be released for it")
            self._database.rows("INSERT INTO releases VALUES (?, ?, ?, ?)", run, round_number, request, released)
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

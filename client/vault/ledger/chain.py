"""A hash chain of signed entries: the digest of each entry covers the entry and the previous digest.

Verifying the chain detects a changed, missing or foreign entry. The newest digest is signed and sent with every
answer as the ledger's head; when a request returns that head, an older copy of the file is detected, because it
lacks an entry that its own key has signed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import Refused, SottoError
from common.keys.statement_key import StatementKey, is_signed
from common.protocol.statement import Head

Query = Callable[..., list[tuple[Any, ...]]]


class LedgerError(SottoError):
    """The ledger was changed outside the vault. Nothing may be spent."""


class Chain:
    """The entries of a ledger, in its table `chain`. The caller must open a transaction before it appends.

    Args:
        query: executes an SQL statement with parameters and returns its rows.
        path: the database file, for messages.
        key: signs each entry; None in simulations and for read-only access.
    """

    def __init__(self, query: Query, path: Path, key: StatementKey | None) -> None:
        self._query = query
        self._path = path
        self._key = key

    def begin(self, entry: dict[str, Any]) -> None:
        """Write the first entry. Its `data_set` is the id of the data that the chain belongs to."""
        self._write(0, "", entry, entry["data_set"])

    def append(self, entry: dict[str, Any]) -> None:
        """Write the next entry."""
        head = self.head
        self._write(head.number + 1, head.digest, entry, head.data_set)

    def _write(self, number: int, previous: str, entry: dict[str, Any], data_set: str) -> None:
        text = json.dumps(entry, sort_keys=True)
        digest = _link(previous, text)
        signed = Head(data_set, number, digest, "").signed_bytes()
        signature = "" if self._key is None else self._key.sign(signed)
        self._query("INSERT INTO chain VALUES (?, ?, ?, ?)", number, text, digest, signature)

    def verify(self) -> list[dict[str, Any]]:
        """Verify all entries and the signature of the newest.

        Returns:
            The entries.

        Raises:
            LedgerError: the chain is empty, or an entry was changed or removed.
        """
        rows = self._query("SELECT number, entry, digest FROM chain ORDER BY number")
        if not rows:
            raise LedgerError(f"{self._path}: the ledger is empty; restore it from the latest backup")
        previous = ""
        for expected, (number, entry, digest) in enumerate(rows):
            if number != expected or digest != _link(previous, entry):
                raise LedgerError(
                    f"{self._path}: entry {expected} of the ledger was changed or removed; nothing may be spent"
                )
            previous = digest
        entries: list[dict[str, Any]] = [json.loads(entry) for _, entry, _ in rows]
        head, public = self.head, entries[0].get("key")
        if public and not is_signed(head.signed_bytes(), head.signature, public):
            raise LedgerError(
                f"{self._path}: entry {head.number} of the ledger is not signed with the ledger's key"
            )
        return entries

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The entries of one kind, in order."""
        rows = self._query("SELECT entry FROM chain WHERE json_extract(entry, '$.kind') = ? ORDER BY number", kind)
        return [json.loads(entry) for (entry,) in rows]

    @property
    def head(self) -> Head:
        """The newest entry, signed."""
        ((number, digest, signature, data_set),) = self._query(
            "SELECT number, digest, signature, "
            "(SELECT json_extract(entry, '$.data_set') FROM chain WHERE number = 0) "
            "FROM chain ORDER BY number DESC LIMIT 1"
        )
        return Head(str(data_set), number, digest, signature)

    def check_seen(self, seen: Head | None) -> None:
        """Check that the chain contains a head that it is said to have sent earlier.

        Raises:
            Refused: the head is not signed with this key, or the chain does not contain it.
        """
        if seen is None or self._key is None:
            return
        if not is_signed(seen.signed_bytes(), seen.signature, self._key.public):
            raise Refused("malformed-request", "the ledger head in the request was not signed by this vault")
        rows = self._query("SELECT digest FROM chain WHERE number = ?", seen.number)
        if seen.data_set != self.head.data_set or not rows or rows[0][0] != seen.digest:
            raise Refused("ledger-behind", f"entry {seen.number}, which this vault signed, is not in its ledger")


def _link(previous: str, entry: str) -> str:
    return hashlib.sha256(f"{previous}\n{entry}".encode()).hexdigest()

"""The lifetime cap as entries of the ledger's chain.

The first entry is written when a vault opens the ledger for the first time. Afterwards organization.toml can lower
the cap, but not raise it: a raise is a separate command, and every later statement says how often it was used.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from client.vault.ledger.chain import Chain, LedgerError
from client.vault.ledger.reservation import Reservation
from common.errors import InputError
from common.privacy.privacy_filter import Cap, Composition

_log = logging.getLogger(__name__)


class CapEntries:
    """The lifetime cap of a ledger.

    Args:
        chain: the ledger's chain.
        transaction: opens a transaction of the ledger.
        composition: how the ledger adds up the costs of runs.
        path: the ledger's file, for messages.
    """

    def __init__(
        self,
        chain: Chain,
        transaction: Callable[[], AbstractContextManager[None]],
        composition: Composition,
        path: Path,
    ) -> None:
        self._chain = chain
        self._transaction = transaction
        self._composition = composition
        self._path = path

    @property
    def current(self) -> Cap | None:
        """The cap; None if no vault has opened the ledger since its entries contain the cap."""
        caps = self._history()
        return caps[-1] if caps else None

    @property
    def raised(self) -> int:
        """How many times ε or δ of the cap was raised."""
        return sum(is_higher(later, earlier) for earlier, later in pairwise(self._history()))

    def required(self) -> Cap:
        """The cap, for a vault that is about to spend.

        Raises:
            LedgerError: the ledger has none.
        """
        current = self.current
        if current is None:
            raise LedgerError(f"{self._path}: the ledger has no lifetime cap; nothing may be spent")
        return current

    def set_or_lower(self, wanted: Cap) -> None:
        """Take over the cap of organization.toml, unless it is higher than the ledger's, or more is spent.

        Raises:
            InputError: ε or δ is higher, more is spent already, or the ledger cannot be written; nothing changes.
        """
        with self._change():
            current = self.current
            if current == wanted:
                return
            if current is not None and is_higher(wanted, current):
                raise InputError(
                    f"policy.max_epsilon = {wanted.epsilon}, policy.max_delta = {wanted.delta}: the lifetime cap "
                    f"in {self._path} is ε = {current.epsilon}, δ = {current.delta}; to raise it, run: sotto "
                    "privacy raise-cap ORGANIZATION.toml"
                )
            self._append(wanted)
        if current is not None:
            _log.info(
                "the lifetime cap is lowered from ε = %s, δ = %s to ε = %s, δ = %s",
                *(current.epsilon, current.delta, wanted.epsilon, wanted.delta),
            )

    def raise_to(self, wanted: Cap) -> None:
        """Raise the cap.

        Raises:
            InputError: the ledger has no cap, neither ε nor δ is higher, the other is below what is spent, or the
                ledger cannot be written.
        """
        with self._change():
            current = self.current
            if current is None or not is_higher(wanted, current):
                raise InputError(f"{self._path}: ε = {wanted.epsilon}, δ = {wanted.delta} does not raise its cap")
            self._append(wanted)

    @contextmanager
    def _change(self) -> Iterator[None]:
        try:
            with self._transaction():
                yield
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self._path}: the lifetime cap cannot be written: {error}") from None

    def _append(self, cap: Cap) -> None:
        assert cap.composition == self._composition
        self.check_covers_spent(cap)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._chain.append({"kind": "cap", "epsilon": cap.epsilon, "delta": cap.delta, "at": at})

    def check_covers_spent(self, cap: Cap) -> None:
        """Refuse a cap below what is charged: a statement would claim a cap that does not hold.

        Raises:
            InputError: more is charged.
        """
        spent = [Reservation.from_entry(entry).cost for entry in self._chain.entries("run")]
        if not cap.covers(spent):
            raise InputError(
                f"policy.max_epsilon = {cap.epsilon}, policy.max_delta = {cap.delta}: more is already charged: "
                f"{cap.describe(spent)}; to spend no more, leave the vault stopped or withdraw its approvals"
            )

    def _history(self) -> list[Cap]:
        entries = self._chain.entries("cap")
        return [Cap(entry["epsilon"], entry["delta"], self._composition) for entry in entries]


def is_higher(one: Cap, other: Cap) -> bool:
    """Whether a cap allows more than another in ε or in δ.

    >>> is_higher(Cap(4.0, 1e-4), Cap(8.0, 1e-5)), is_higher(Cap(4.0, 1e-5), Cap(8.0, 1e-5))
    (True, False)
    """
    return one.epsilon > other.epsilon or one.delta > other.delta

"""An organization's ledger, opened only to look: whoever shows or computes something from it begins here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from common.keys.statement_key import StatementKey


@contextmanager
def read_ledger(organization: Organization, key: StatementKey | None = None) -> Iterator[Ledger]:
    """The ledger, which is neither made nor written; a vault that uses it is not disturbed.

    Args:
        organization: its file.
        key: the statement key that the ledger should be bound to; None to take the one that it names.

    Raises:
        InputError: there is no ledger, or it is not the organization's, or not of that key.
        LedgerError: an entry was changed or removed.
    """
    ledger = Ledger(
        organization.path(organization.vault.ledger),
        organization.name,
        organization.data.unit,
        key,
        composition=organization.policy.composition,
        create=False,
    )
    try:
        yield ledger
    finally:
        ledger.close()

"""Read-only access to an organization's ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from common.keys.statement_key import StatementKey


@contextmanager
def read_ledger(organization: Organization, key: StatementKey | None = None) -> Iterator[Ledger]:
    """Open the ledger read-only. It is neither created nor written; a vault that uses it is not disturbed.

    Args:
        organization: the organization's settings.
        key: the statement key that the ledger should be bound to; None to use the public key in the ledger.

    Raises:
        InputError: the ledger does not exist, or belongs to another organization or key.
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

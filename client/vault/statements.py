"""The signed statement of what a run cost an organization."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import replace

from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from client.vault.policy.organization import Organization
from common.protocol.statement import Lifetime, Statement


def make_statement(
    organization: Organization, ledger: Ledger, reservation: Reservation, boundary: str
) -> Statement:
    """Make and sign the statement of a run, from the ledger.

    Args:
        organization: the organization's settings.
        ledger: the ledger, which also holds the statement key.
        reservation: the run's reservation.
        boundary: what separates the records from the network.
    """
    cap = ledger.cap.required()
    statement = Statement(
        organization=organization.name,
        run=reservation.run,
        plan=reservation.plan,
        fingerprint=reservation.fingerprint,
        unit=organization.data.unit,
        public_size=organization.data.public_size,
        mechanisms=(reservation.mechanism,),
        epsilon=reservation.epsilon,
        delta=reservation.delta,
        lifetime=Lifetime(cap.spent(ledger.spent()), cap.epsilon, cap.delta, cap.accountant, ledger.cap.raised),
        boundary=boundary,
        versions=_versions(),
        head=ledger.head,
        key=ledger.public_key,
    )
    return replace(statement, signature=ledger.sign(statement.signed_bytes()))


def _versions() -> dict[str, str]:
    names = ("sotto", "opacus", "torch", "peft", "transformers")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}

"""What a plan would cost an organization: computed from policy and ledger, before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass

from client.vault.ledger.reader import read_ledger
from client.vault.policy.organization import Organization
from client.vault.policy.policy import check_plan_fits, lifetime_cap
from common.errors import InputError
from common.plan.plan import Plan
from common.privacy.accounting import epsilon
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap, Cost


@dataclass(frozen=True)
class Price:
    """What a plan would cost an organization.

    Attributes:
        mechanism: of the whole run.
        epsilon, delta: of the whole run.
        spent: ε of all runs so far.
        after: ε of all runs with this one.
        cap: what may be spent in all.
    """

    mechanism: Mechanism
    epsilon: float
    delta: float
    spent: float
    after: float
    cap: Cap


def price(organization: Organization, plan: Plan) -> Price:
    """What a plan would cost, before anything is spent.

    Raises:
        InputError: the policy refuses the plan, or the lifetime cap does not cover it; or the ledger is not the
            organization's.
        LedgerError: an entry of the ledger was changed or removed.
    """
    mechanism = check_plan_fits(plan, organization)
    cap = lifetime_cap(organization)
    run = Cost(mechanism, epsilon(mechanism, plan.privacy.delta), plan.privacy.delta)
    earlier = _spent(organization)
    if not cap.covers([*earlier, run]):
        raise InputError(
            f"the plan costs ε = {run.epsilon}, δ = {run.delta}; the lifetime budget does not cover it: "
            f"{cap.describe(earlier)}"
        )
    return Price(mechanism, run.epsilon, run.delta, cap.spent(earlier), cap.spent([*earlier, run]), cap)


def _spent(organization: Organization) -> list[Cost]:
    """What the ledger says; nothing, if the vault has not made it yet."""
    if not organization.path(organization.vault.ledger).exists():
        return []
    with read_ledger(organization) as ledger:
        return ledger.spent()

"""What a plan would cost an organization, computed from policy and ledger before anything is spent."""

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
class PlanCost:
    """What a plan would cost an organization.

    Attributes:
        mechanism: the mechanism of the whole run.
        epsilon, delta: the cost of the whole run.
        spent: ε of all runs so far.
        after: ε of all runs including this one.
        cap: the limit over all runs.
    """

    mechanism: Mechanism
    epsilon: float
    delta: float
    spent: float
    after: float
    cap: Cap


def plan_cost(organization: Organization, plan: Plan) -> PlanCost:
    """Compute what a plan would cost. Nothing is spent.

    Raises:
        InputError: the policy refuses the plan, the lifetime cap does not cover it, or the ledger belongs to
            another organization.
        LedgerError: an entry of the ledger was changed or removed.
    """
    mechanism = check_plan_fits(plan, organization)
    cap = lifetime_cap(organization)
    run = Cost(mechanism, epsilon(mechanism, plan.privacy.delta), plan.privacy.delta)
    charged = _charged_costs(organization)
    if not cap.covers([*charged, run]):
        raise InputError(
            f"the plan costs ε = {run.epsilon}, δ = {run.delta}; the lifetime budget does not cover it: "
            f"{cap.describe(charged)}"
        )
    return PlanCost(mechanism, run.epsilon, run.delta, cap.spent(charged), cap.spent([*charged, run]), cap)


def _charged_costs(organization: Organization) -> list[Cost]:
    """The costs in the ledger; empty if the vault has not created it yet."""
    if not organization.path(organization.vault.ledger).exists():
        return []
    with read_ledger(organization) as ledger:
        return ledger.spent()

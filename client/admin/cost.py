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
        epsilon, delta: the cost of one run.
        spent: ε of all runs so far.
        after: ε of all runs including the new ones.
        cap: the limit over all runs.
    """

    mechanism: Mechanism
    epsilon: float
    delta: float
    spent: float
    after: float
    cap: Cap


def plan_cost(organization: Organization, plan: Plan, runs: int = 1) -> PlanCost:
    """Compute what runs of a plan would cost. Nothing is spent.

    Args:
        organization: the organization's settings.
        plan: the plan.
        runs: the number of new runs.

    Raises:
        InputError: the policy refuses the plan, the lifetime cap does not cover the runs, or the ledger belongs to
            another organization.
        LedgerError: an entry of the ledger was changed or removed.
    """
    mechanism = check_plan_fits(plan, organization)
    run = Cost(mechanism, epsilon(mechanism, plan.privacy.delta), plan.privacy.delta)
    cap, charged = _cap_and_costs(organization)
    if not cap.covers([*charged, *[run] * runs]):
        cost = f"the plan costs ε = {run.epsilon}, δ = {run.delta}" + (
            "" if runs == 1 else f" in each of {runs} runs"
        )
        raise InputError(f"{cost}; the lifetime budget does not cover it: {cap.describe(charged)}")
    return PlanCost(
        mechanism, run.epsilon, run.delta, cap.spent(charged), cap.spent([*charged, *[run] * runs]), cap
    )


def _cap_and_costs(organization: Organization) -> tuple[Cap, list[Cost]]:
    """The cap and the costs in the ledger; the policy's cap and no costs if the vault has not created it yet."""
    if not organization.path(organization.vault.ledger).exists():
        return lifetime_cap(organization), []
    with read_ledger(organization) as ledger:
        # The ledger of an earlier version has no cap until its vault starts.
        return ledger.cap.current or lifetime_cap(organization), ledger.spent()

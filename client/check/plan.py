"""Whether the policy allows a plan, whether it is approved, and what it would cost."""

from __future__ import annotations

from client.admin.approvals import approved_runs
from client.admin.cost import plan_cost
from client.check.findings import Findings, Group
from client.vault.policy.organization import Organization
from client.vault.policy.policy import check_plan_fits
from common.plan.plan import Plan

_GROUP = Group("plan")


def check_plan(organization: Organization, plan: Plan) -> Findings[None]:
    """Check a plan against the policy and the ledger. It is not recorded as approved."""
    allowed = yield from _GROUP.run("policy", _policy(organization, plan))
    if allowed:
        yield from _GROUP.run("cost", _cost(organization, plan))
    yield from _GROUP.run("approval", _approval(organization, plan))


def _policy(organization: Organization, plan: Plan) -> Findings[bool]:
    check_plan_fits(plan, organization)
    rank = organization.local_plan(plan).lora.rank
    reduced = f"; trained at rank {rank} of the plan's {plan.lora.rank}" if rank < plan.lora.rank else ""
    yield _GROUP.ok(
        "policy",
        f"{plan.name} is within the policy: ε = {plan.privacy.epsilon:g} of at most "
        f"{organization.policy.max_epsilon_per_run:g} per run{reduced}",
    )
    return True


def _cost(organization: Organization, plan: Plan) -> Findings[None]:
    cost = plan_cost(organization, plan)
    yield _GROUP.ok(
        "cost",
        f"{cost.mechanism.steps} steps at rate {cost.mechanism.sample_rate:.4g} with noise "
        f"σ = {cost.mechanism.noise_multiplier:g} cost ε = {cost.epsilon:g} at δ = {cost.delta:g}; spent so far "
        f"{cost.spent:g}, after this run {cost.after:g} of {cost.cap.epsilon:g}",
    )


def _approval(organization: Organization, plan: Plan) -> Findings[None]:
    digest = f"digest {plan.digest()[:12]}"
    if organization.policy.plans == "any-within-policy":
        yield _GROUP.ok("approval", f'not required, since policy.plans = "any-within-policy"; {digest}')
        return
    approval, left = approved_runs(organization, plan)
    if left:
        yield _GROUP.ok("approval", f"approved, runs left: {left}; {digest}")
        return
    state = "not approved" if approval is None else "its approved runs are used up"
    yield _GROUP.warning(
        "approval",
        f"{state}, {digest}: a new run would be refused; to approve one, run: "
        "sotto client approve ORGANIZATION.toml PLAN.toml",
    )

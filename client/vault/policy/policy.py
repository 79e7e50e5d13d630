"""Apply the policy to a plan: the mechanism of a run, or a refusal. A plan cannot relax the policy."""

from __future__ import annotations

from client.vault.policy.organization import Organization
from common.errors import InputError, Refused
from common.plan.plan import Plan
from common.privacy.mechanism import Mechanism
from common.privacy.plan_mechanism import NoMechanismError, plan_mechanism
from common.privacy.privacy_filter import Cap


def lifetime_cap(organization: Organization) -> Cap:
    """What an organization may spend over all runs, for ever."""
    policy = organization.policy
    return Cap(policy.max_epsilon, policy.max_delta, policy.composition)


def run_mechanism(organization: Organization, plan: Plan) -> Mechanism:
    """The mechanism of a whole run, with the smallest noise that meets both the plan's ε and the policy's minimum.

    Raises:
        Refused: the plan asks for more than the policy allows.
    """
    privacy, policy = plan.privacy, organization.policy
    limit = policy.max_epsilon_per_run
    steps = plan.training.rounds * plan.training.local_steps
    rank_refused = plan.lora.refusal(organization.vault.max_rank)
    refusals = {
        f"task.kind = {plan.task.kind!r}; allowed: {', '.join(policy.tasks)}": plan.task.kind not in policy.tasks,
        f"training.rounds = {plan.training.rounds}; at most {policy.max_rounds} are allowed": (
            plan.training.rounds > policy.max_rounds
        ),
        f"rounds × local_steps = {steps}; at most {policy.max_steps} are allowed": steps > policy.max_steps,
        f"task.max_length = {plan.task.max_length}; at most {policy.max_length} are allowed": (
            plan.task.max_length > policy.max_length
        ),
        f"privacy.unit = {privacy.unit!r}; the organization's unit is {organization.data.unit!r}, for ever": (
            privacy.unit != organization.data.unit
        ),
        f"privacy.epsilon = {privacy.epsilon}; a run may cost at most {limit}": privacy.epsilon > limit,
        f"vault.max_rank = {organization.vault.max_rank}: {rank_refused}": rank_refused is not None,
    }
    for detail, refused in refusals.items():
        if refused:
            raise Refused("policy", detail)
    try:
        return plan_mechanism(plan, organization.data.public_size, policy.min_noise_multiplier)
    except NoMechanismError as error:
        # Its inputs are public, so its text may leave the vault.
        raise Refused("policy", str(error)) from None


def check_plan_fits(plan: Plan, organization: Organization) -> Mechanism:
    """Check a plan as a vault would, for the operator's own terminal.

    Raises:
        InputError: the policy refuses the plan.
    """
    try:
        organization.model_folder(plan)
        return run_mechanism(organization, plan)
    except Refused as refusal:
        raise InputError(f"organization {organization.name!r}: {refusal.detail}") from None

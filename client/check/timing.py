"""How long a round takes, and when it should be answered so that its time tells nothing of the drawn records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from client.check.findings import Findings, Group
from client.vault.policy.organization import Organization
from client.vault.records.encoded import Unit
from client.vault.training.dp_sgd import choose_examples, poisson_sample
from client.vault.training.entropy import SystemEntropy
from client.vault.training.micro_batches import groups, micro_batches
from common.plan.plan import Plan
from common.tasks import padded_length

_GROUP = Group("device")
# Poisson samples drawn to estimate the tokens of a step.
_SAMPLES = 5
# A step draws more units than assumed with at most this probability.
_TAIL = 1e-9
# The machine may be busier than it is now.
_SLOWER = 2.0


@dataclass(frozen=True)
class Speed:
    """The measured speed of training.

    Attributes:
        token: seconds for a padded token.
        step: seconds of a step beside its tokens, for noise and optimizer.
        encoding: seconds to encode all records, once a plan.
        parameters: the number of trained parameters.
    """

    token: float
    step: float
    encoding: float
    parameters: int


def check_times(organization: Organization, plan: Plan, speed: Speed, units: Sequence[Unit]) -> Findings[None]:
    """Estimate the time of a round, and the `vault.reply_seconds` that would hide it.

    Args:
        organization: the organization's settings.
        plan: the plan.
        speed: of this machine.
        units: the units, for their lengths.
    """
    steps, timeout = plan.training.local_steps, plan.federation.round_timeout
    seconds = steps * (speed.step + speed.token * tokens_per_step(organization, plan, units, speed.parameters))
    text = f"about {seconds:.2g} s for a round of {steps} steps"
    if seconds > timeout:
        yield _GROUP.warning("time", f"{text}; the plan's round_timeout is {timeout:g} s: ask for a longer one")
    else:
        yield _GROUP.ok("time", text)
    reply = organization.vault.reply_seconds
    enough = enough_seconds(organization, plan, speed, units)
    if reply is None:
        yield _GROUP.ok(
            "reply time",
            f"follows the records that are drawn; vault.reply_seconds = {enough} would be enough to hide it",
        )
    elif reply > timeout:
        yield _GROUP.warning(
            "reply time",
            f"vault.reply_seconds = {reply:g} is above the plan's round_timeout = {timeout:g}: always too late",
        )
    elif reply < enough:
        yield _GROUP.warning(
            "reply time", f"vault.reply_seconds = {reply:g} may be too short to hide it; {enough} is enough"
        )
    else:
        yield _GROUP.ok("reply time", f"hidden by vault.reply_seconds = {reply:g}; {enough} would be enough")


def enough_seconds(organization: Organization, plan: Plan, speed: Speed, units: Sequence[Unit]) -> int:
    """Seconds in which a round is finished for almost every draw, also if the machine is slower than now."""
    tokens = most_tokens(organization, plan, units)
    seconds = speed.encoding + plan.training.local_steps * (speed.step + speed.token * tokens)
    return math.ceil(_SLOWER * seconds / 10) * 10


def most_tokens(organization: Organization, plan: Plan, units: Sequence[Unit]) -> int:
    """Padded tokens that a step processes at most, except with probability `_TAIL`.

    The number of drawn units is bounded by Bernstein's inequality (Boucheron, Lugosi and Massart 2013,
    Concentration Inequalities, corollary 2.11). The longest are assumed to be drawn, and for each length one
    micro-batch that is not full.
    """
    rate = _rate(organization, plan)
    mean, tail = len(units) * rate, -math.log(_TAIL)
    drawn = math.floor(mean + tail / 3 + math.sqrt(tail**2 / 9 + 2 * tail * mean * (1 - rate)))
    lengths = [sorted((padded_length(len(one)) for one in unit), reverse=True) for unit in units]
    costs = sorted((sum(unit[: plan.privacy.records_per_user]) for unit in lengths), reverse=True)
    full = organization.vault.micro_batch_tokens()
    partial = sum(max(full, one) for one in {one for unit in lengths for one in unit})
    return sum(costs[:drawn]) + partial


def tokens_per_step(organization: Organization, plan: Plan, units: Sequence[Unit], parameters: int) -> float:
    """Padded tokens that a step processes: the mean over a few samples, each drawn as in training.

    Args:
        organization: the organization's settings; its public size gives the sample rate.
        plan: the plan; a batch size above the public size, which the policy refuses, counts as all units.
        units: the units, for their lengths. A partial micro-batch costs as much as a full one.
        parameters: the number of trained parameters.
    """
    max_tokens = organization.vault.micro_batch_tokens()
    rate = _rate(organization, plan)
    total = 0
    for _ in range(_SAMPLES):
        stream = SystemEntropy().stream(organization.name, "check", 1)
        drawn = poisson_sample(units, rate, stream)
        sample = [choose_examples(unit, plan.privacy.records_per_user, stream) for unit in drawn]
        for group in groups(sample, parameters, max_tokens):
            total += sum(batch.rows * batch.length for batch, _ in micro_batches(group, max_tokens))
    return total / _SAMPLES


def _rate(organization: Organization, plan: Plan) -> float:
    return min(1.0, plan.training.batch_size / organization.data.public_size)

"""Bugs by which training is not what the accountant is told, or by which a false cost is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import client.vault.policy.policy
import client.vault.training.dp_sgd
import common.report.verification
from client.vault.training.entropy import Keystream
from common.privacy.mechanism import Mechanism
from tests.mutants.mutant import replace_everywhere


def shuffled_batches() -> None:
    """A batch of fixed size, as a shuffled loader gives it, accounted as Poisson."""

    def sample(units: Any, rate: float, stream: Keystream) -> list[Any]:
        order = stream.uniforms(len(units)).argsort()
        return [units[index] for index in order[: round(rate * len(units))]]

    replace_everywhere(client.vault.training.dp_sgd.poisson_sample, sample)


def _with_step(change: Callable[[Any, Any], Any]) -> None:
    original = client.vault.training.dp_sgd.take_steps

    def take_steps(sum_of: Any, parameters: Any, units: Any, step: Any, *rest: Any) -> None:
        original(sum_of, parameters, units, change(step, units), *rest)

    replace_everywhere(original, take_steps)


def realised_divisor() -> None:
    """The noised sum divided by the number of records that were drawn."""
    summed, noised = client.vault.training.dp_sgd.clipped_sum, client.vault.training.dp_sgd.add_noise
    drawn: list[float] = [1.0]

    def clipped_sum(gradients: Any, task: Any, sample: Any, *rest: Any) -> Any:
        drawn[0] = max(1, len(sample))
        return summed(gradients, task, sample, *rest)

    def add_noise(total: Any, *rest: Any) -> Any:
        return noised(total, *rest) * (8.0 / drawn[0])

    replace_everywhere(summed, clipped_sum)
    replace_everywhere(noised, add_noise)


def no_division() -> None:
    """The sum of the gradients in place of their mean; AdamW hides it."""
    _with_step(lambda step, _: replace(step, batch_size=1))


def true_rate() -> None:
    """The sample rate from the true number of records."""
    _with_step(lambda step, units: replace(step, sample_rate=min(1.0, step.batch_size / max(1, len(units)))))


def fresh_accountant() -> None:
    """Each round accounted for by itself, as if the run had one."""
    original = client.vault.policy.policy.run_mechanism

    def run_mechanism(organization: Any, plan: Any) -> Mechanism:
        training = plan.training.model_copy(update={"rounds": 1})
        return original(organization, plan.model_copy(update={"training": training}))

    replace_everywhere(original, run_mechanism)


def skipped_empty_batch() -> None:
    """No step, and so no noise, when nobody was drawn."""
    summed, noised = client.vault.training.dp_sgd.clipped_sum, client.vault.training.dp_sgd.add_noise
    drawn: list[int] = [1]

    def clipped_sum(gradients: Any, task: Any, sample: Any, *rest: Any) -> Any:
        drawn[0] = len(sample)
        return summed(gradients, task, sample, *rest)

    def add_noise(total: Any, *rest: Any) -> Any:
        return noised(total, *rest) if drawn[0] else total.double()

    replace_everywhere(summed, clipped_sum)
    replace_everywhere(noised, add_noise)


def lifetime_accountant_unchecked() -> None:
    """A budget over all runs is believed whatever accountant it names."""
    replace_everywhere(common.report.verification.accountant_problems, lambda _: [])


def lifetime_delta_unchecked() -> None:
    """A budget over all runs is believed at any δ."""
    replace_everywhere(common.report.verification.delta_problems, lambda _: [])


def renyi_cost_unchecked() -> None:
    """By the Rényi filter, less may be spent over all runs than this run alone costs."""
    original = common.report.verification.spent_problems

    def spent_problems(statement: Any) -> list[str]:
        return [] if statement.lifetime.accountant == "rdp-filter" else original(statement)

    replace_everywhere(original, spent_problems)

"""From a plan and public numbers to the mechanism of a run: one way for the vault and for calibration."""

from __future__ import annotations

from common.plan.plan import MOST_STEPS, Plan
from common.privacy.accounting import epsilon, noise_multiplier, sample_rate
from common.privacy.mechanism import Mechanism


class NoMechanismError(ValueError):
    """No mechanism meets a plan. The text is made of public numbers."""


def plan_mechanism(plan: Plan, public_size: int, min_noise_multiplier: float = 0.0) -> Mechanism:
    """The mechanism of a whole run, with the smallest noise that meets both the plan's ε and a minimum. Slow.

    Args:
        plan: of the run.
        public_size: the number of units that the organization publishes.
        min_noise_multiplier: σ is never below this.

    Raises:
        NoMechanismError: the plan does not fit the size, or asks for an ε that cannot be reached.
    """
    privacy, batch = plan.privacy, plan.training.batch_size
    steps = plan.training.rounds * plan.training.local_steps
    if public_size < 1:
        raise NoMechanismError(f"public_size = {public_size}; it should be at least 1")
    if privacy.delta >= 1 / public_size:
        raise NoMechanismError(
            f"privacy.delta = {privacy.delta}; it should be below 1 / public_size = {1 / public_size:.2g}"
        )
    if batch > public_size:
        raise NoMechanismError(f"training.batch_size = {batch}; it should be at most public_size = {public_size}")
    if steps > MOST_STEPS:
        raise NoMechanismError(f"rounds × local_steps = {steps}; it should be at most {MOST_STEPS}")
    rate = sample_rate(batch, public_size)
    try:
        sigma = noise_multiplier(privacy.epsilon, privacy.delta, rate, steps)
    except (ValueError, OverflowError, RuntimeError) as error:  # beyond the range of the accountant
        raise NoMechanismError(f"the noise cannot be computed: {error}") from None
    mechanism = Mechanism(rate, max(sigma, min_noise_multiplier), steps)
    # Where PRV is not precise enough a run is charged by RDP, which is looser.
    if (cost := epsilon(mechanism, privacy.delta)) > privacy.epsilon:
        raise NoMechanismError(f"privacy.epsilon = {privacy.epsilon}: a run with it would be charged ε = {cost}")
    return mechanism

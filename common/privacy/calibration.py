"""What a plan will cost and how noisy it will be, before anything is spent.

Pure functions of a plan and public numbers.

Noise-to-signal. In a step, organization i releases the sum of its clipped gradients plus noise of standard
deviation σ_i·C in each of d coordinates, divided by the public batch size B (Abadi et al. 2016,
https://arxiv.org/abs/1607.00133, Algorithm 1). The noise has an L2 norm of about σ_i·C·√d / B. The mean of the
clipped gradients has a norm of at most C, reached if every gradient is clipped and all point in the same
direction. With weights w_i that sum to 1, the average over organizations has a ratio of

    √d · √(Σ w_i²·σ_i²) / B

or more. C drops out; σ / B is the noise-batch ratio of McKenna et al. 2025 (https://arxiv.org/abs/2501.18914).
Noise of different steps is independent: over T steps of plain SGD in a constant direction the ratio falls by √T.
Both are best cases, computed from public numbers; how far real gradients are from them depends on the records. A
ratio
above 1 in a step is usual and not a failure: the noise points in all d directions, the signal in few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from common.plan.plan import Plan
from common.privacy.accounting import epsilon
from common.privacy.mechanism import Mechanism
from common.privacy.plan_mechanism import NoMechanismError, plan_mechanism

# (setting, factor): one setting at a time is changed, the others are the plan's.
CHANGES = (
    ("rounds", 0.5),
    ("rounds", 2.0),
    ("batch_size", 0.5),
    ("batch_size", 2.0),
    ("epsilon", 0.5),
    ("epsilon", 2.0),
)


@dataclass(frozen=True)
class PublicNumbers:
    """The public numbers of an organization.

    Attributes:
        name: of the organization.
        public_size: the number of units that it publishes.
        min_noise_multiplier: its policy's smallest σ; 0 if unknown.
    """

    name: str
    public_size: int
    min_noise_multiplier: float = 0.0


def calibrate(
    plan: Plan,
    organizations: Sequence[PublicNumbers],
    coordinates: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compute a plan's noise and cost, and the noise that other settings would need. Takes seconds per setting.

    Args:
        plan: the plan.
        organizations: at least one.
        coordinates: the number of trained parameters d; None if the base model is not available.
        progress: called with a description of each step.

    Returns:
        Plain values: `organizations`, `noise_to_signal` (None without coordinates) and `alternatives`.

    Raises:
        InputError: the plan does not fit an organization's public size, or asks for too small an ε.
    """
    training, privacy = plan.training, plan.privacy
    progress("the plan")
    mechanisms = [_mechanism(plan, organization) for organization in organizations]
    rows = [_cost(plan, item, mechanism) for item, mechanism in zip(organizations, mechanisms, strict=True)]
    ratio = None if coordinates is None else _noise_to_signal(plan, rows, coordinates)
    return {
        "plan": plan.name,
        "rounds": training.rounds,
        "local_steps": training.local_steps,
        "batch_size": training.batch_size,
        "epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "trained_coordinates": coordinates,
        "organizations": rows,
        "noise_to_signal": ratio,
        "alternatives": [
            _alternative(plan, change, value, organizations, mechanisms, progress)
            for change, value in _changes(plan)
        ],
    }


def noise_to_signal(
    sigmas: Sequence[float], weights: Sequence[float], coordinates: int, batch_size: int, steps: int = 1
) -> float:
    """Norm of the averaged noise divided by the largest norm of the averaged signal; see the module's docstring.

    Args:
        sigmas: noise multiplier of each organization.
        weights: of the average, positive; they are normalized to sum to 1.
        coordinates: d, the number of trained parameters.
        batch_size: B, the expected units of an organization in a step.
        steps: the number of steps in which a signal in one direction accumulates.
    """
    total = sum(weights)
    noise = math.sqrt(sum((weight / total * sigma) ** 2 for weight, sigma in zip(weights, sigmas, strict=True)))
    return noise * math.sqrt(coordinates) / batch_size / math.sqrt(steps)


def _mechanism(plan: Plan, organization: PublicNumbers) -> Mechanism:
    try:
        return plan_mechanism(plan, organization.public_size, organization.min_noise_multiplier)
    except NoMechanismError as error:
        raise InputError(f"{organization.name}: {error}") from None


def _cost(plan: Plan, organization: PublicNumbers, mechanism: Mechanism) -> dict[str, Any]:
    return {
        "name": organization.name,
        "public_size": organization.public_size,
        **mechanism.to_dict(),
        "epsilon": epsilon(mechanism, plan.privacy.delta),
        "epsilon_rdp": epsilon(mechanism, plan.privacy.delta, "rdp"),
        "delta": plan.privacy.delta,
    }


def _noise_to_signal(plan: Plan, rows: Sequence[dict[str, Any]], coordinates: int) -> dict[str, Any]:
    sigmas = [row["noise_multiplier"] for row in rows]
    equal = plan.aggregation.weights == "equal"
    weights = [1.0 if equal else float(row["public_size"]) for row in rows]
    batch, steps = plan.training.batch_size, plan.training.rounds * plan.training.local_steps
    return {
        "step": noise_to_signal(sigmas, weights, coordinates, batch),
        "run": noise_to_signal(sigmas, weights, coordinates, batch, steps),
        "alone": {
            row["name"]: noise_to_signal([sigma], [1.0], coordinates, batch)
            for row, sigma in zip(rows, sigmas, strict=True)
        },
    }


def _changes(plan: Plan) -> list[tuple[str, float]]:
    """(setting, its other value), without those that change nothing."""
    changes = []
    for change, factor in CHANGES:
        old = plan.privacy.epsilon if change == "epsilon" else getattr(plan.training, change)
        value = old * factor if change == "epsilon" else max(1, round(old * factor))
        if value != old:
            changes.append((change, value))
    return changes


def _changed(plan: Plan, change: str, value: float) -> Plan:
    section = "privacy" if change == "epsilon" else "training"
    return plan.model_copy(update={section: getattr(plan, section).model_copy(update={change: value})})


def _alternative(
    plan: Plan,
    change: str,
    value: float,
    organizations: Sequence[PublicNumbers],
    mechanisms: Sequence[Mechanism],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """σ of each organization with one setting changed, and σ / B relative to the plan's; None if there is none."""
    progress(f"{change} = {value:g}")
    other = _changed(plan, change, value)
    noise: dict[str, float | None] = {}
    relative: dict[str, float | None] = {}
    for organization, before in zip(organizations, mechanisms, strict=True):
        try:
            sigma = _mechanism(other, organization).noise_multiplier
        except InputError:  # too large a batch, too many steps or too small an ε
            noise[organization.name] = relative[organization.name] = None
            continue
        noise[organization.name] = sigma
        relative[organization.name] = (
            sigma / other.training.batch_size * plan.training.batch_size / before.noise_multiplier
        )
    return {"change": change, "value": value, "noise_multiplier": noise, "relative_noise": relative}

"""A run as the ledger charged it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cost


@dataclass(frozen=True)
class Reservation:
    """A run as it was charged.

    Attributes:
        run: the run's id.
        plan: digest of the plan.
        fingerprint: fingerprint of the base model.
        mechanism: the mechanism, with all steps of all rounds.
        epsilon, delta: the cost of the whole run.
        rounds: the number of rounds that may be released.
    """

    run: str
    plan: str
    fingerprint: str
    mechanism: Mechanism
    epsilon: float
    delta: float
    rounds: int

    @property
    def cost(self) -> Cost:
        """The cost, as the lifetime filter needs it."""
        return Cost(self.mechanism, self.epsilon, self.delta)

    def to_entry(self) -> dict[str, Any]:
        """Convert to an entry of the ledger."""
        return {**asdict(self), "mechanism": self.mechanism.to_dict()}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Reservation:
        """The inverse of `to_entry`."""
        values = {name: entry[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "mechanism": Mechanism.from_dict(entry["mechanism"])})


def count_runs(reservations: Iterable[Reservation], plan: str) -> int:
    """The number of runs that were charged for a plan.

    Args:
        reservations: all runs of a ledger.
        plan: digest of the plan.
    """
    return sum(reservation.plan == plan for reservation in reservations)

"""The lifetime cap: a privacy filter over all runs of an organization, without a time limit.

The server chooses a run's parameters after it has seen all earlier releases. PRV and PLD composition is not valid
then; a filter is: it considers what is spent and what is requested next, and refuses before the cap is exceeded.

There are two filters. The organization chooses one when its ledger is created:

basic: Σε ≤ max_epsilon and Σδ ≤ max_delta (Rogers, Roth, Ullman and Vadhan 2016, https://arxiv.org/abs/1605.08294).
    Simple; with the tight ε of each run.
renyi: Σρ(α) of the runs' Rényi divergences, at fixed orders α (Feldman and Zrnic 2021,
    https://arxiv.org/abs/2008.11193). Slightly more expensive for one run, much cheaper for many.

The best order depends on what was released, and so may be chosen by an adversary. Each of the K orders therefore
uses δ / K: with A the event that order α was chosen, P(S) = Σ P(S ∩ A) ≤ Σ (e^ε Q(S ∩ A) + δ/K) =
e^ε Q(S) + δ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from common.privacy.accounting import renyi_divergence, round_up, total
from common.privacy.mechanism import Mechanism

Composition = Literal["basic", "renyi"]

ORDERS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)


@dataclass(frozen=True)
class Cost:
    """The cost of one run.

    Attributes:
        mechanism: of the whole run.
        epsilon, delta: of the whole run, by the accountant for single runs.
    """

    mechanism: Mechanism
    epsilon: float
    delta: float


@dataclass(frozen=True)
class Cap:
    """What an organization may spend over all runs.

    Attributes:
        epsilon, delta: the cap.
        composition: the filter, which composes the runs.
    """

    epsilon: float
    delta: float
    composition: Composition = "basic"

    @property
    def accountant(self) -> str:
        """The name of the filter in statements."""
        return {"basic": "basic-composition-filter", "renyi": "rdp-filter"}[self.composition]

    def covers(self, runs: Sequence[Cost]) -> bool:
        """Whether the runs together are within the cap."""
        return self._sum_of_epsilons(runs) <= Decimal(repr(self.epsilon)) and (
            self.composition == "renyi" or total(run.delta for run in runs) <= Decimal(repr(self.delta))
        )

    def spent(self, runs: Sequence[Cost]) -> float:
        """ε of the runs together at the cap's δ."""
        return float(self._sum_of_epsilons(runs))

    def describe(self, runs: Sequence[Cost]) -> str:
        """What the runs spent, in words."""
        deltas = (
            "" if self.composition == "renyi" else f", and δ = {total(run.delta for run in runs)} of {self.delta}"
        )
        return f"ε = {self.spent(runs)} of {self.epsilon} is spent at δ = {self.delta}{deltas}"

    def _sum_of_epsilons(self, runs: Sequence[Cost]) -> Decimal:
        if self.composition == "basic":
            return total(run.epsilon for run in runs)
        return Decimal(repr(renyi_epsilon([run.mechanism for run in runs], self.delta)))


def renyi_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """ε at δ of adaptively chosen mechanisms, by their Rényi divergences; rounded up.

    Each order is converted with δ / K (Canonne, Kamath and Steinke 2020, https://arxiv.org/abs/2004.00010,
    proposition 12), and the smallest result is used; see the module's docstring.
    """
    if not mechanisms:
        return 0.0
    share = math.log(delta / len(ORDERS))
    best = math.inf
    for order in ORDERS:
        divergence = math.fsum(renyi_divergence(mechanism, order) for mechanism in mechanisms)
        epsilon = divergence + math.log1p(-1 / order) - (share + math.log(order)) / (order - 1)
        best = min(best, epsilon)
    return round_up(max(best, 0.0))

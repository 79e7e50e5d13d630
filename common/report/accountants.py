"""What a vault can state, by the kind of mechanism and the accountant that its statement names.

A new kind of mechanism or a new accountant is one more entry of `RULES`. A statement that names any other does
not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from common.privacy.accounting import epsilon
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap, renyi_epsilon
from common.protocol.statement import Statement

_BASIC = Cap(1.0, 1.0, "basic").accountant
_RENYI = Cap(1.0, 1.0, "renyi").accountant


@dataclass(frozen=True)
class LifetimeRule:
    """The least that an accountant over all runs can give, whatever the earlier runs were.

    Attributes:
        least_epsilon: statement → ε of its run alone, at the δ that this accountant uses.
        least_delta: statement → δ over all runs if there was no other run.
    """

    least_epsilon: Callable[[Statement], float]
    least_delta: Callable[[Statement], float]


@dataclass(frozen=True)
class Rules:
    """How a statement with one kind of mechanism is verified.

    Attributes:
        accountant: the name of the accountant of a run.
        epsilon: (mechanism, δ) → ε by that accountant.
        lifetime: the name of an accountant over all runs → its rule.
    """

    accountant: str
    epsilon: Callable[[Mechanism, float], float]
    lifetime: Mapping[str, LifetimeRule]


def rules(statement: Statement) -> Rules:
    """The rules for a statement's kind of mechanism; reading a statement refuses other kinds."""
    (mechanism,) = statement.mechanisms
    return RULES[mechanism.to_dict()["kind"]]


def _run_epsilon(statement: Statement) -> float:
    (mechanism,) = statement.mechanisms
    return epsilon(mechanism, statement.delta)


def _run_delta(statement: Statement) -> float:
    return statement.delta


def _renyi_epsilon(statement: Statement) -> float:
    return renyi_epsilon(statement.mechanisms, statement.lifetime.delta)


def _no_delta(statement: Statement) -> float:  # noqa: ARG001
    """Rényi divergences are added up without any δ; the cap's own is used once, at the end."""
    return 0.0


RULES: Mapping[str, Rules] = MappingProxyType(
    {
        "poisson-gaussian": Rules(
            accountant="prv",
            epsilon=epsilon,
            lifetime={
                _BASIC: LifetimeRule(_run_epsilon, _run_delta),
                _RENYI: LifetimeRule(_renyi_epsilon, _no_delta),
            },
        ),
    }
)

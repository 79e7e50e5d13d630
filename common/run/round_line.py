"""What is recorded of one round: a line of `rounds.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import ConfigDict, with_config

# Pydantic reads no `typing.TypedDict` before Python 3.12.
from typing_extensions import TypedDict

# A run directory may come from another party: its files are checked as strictly as messages from the network.
_STRICT = ConfigDict(strict=True, extra="forbid")


@with_config(_STRICT)
class Participation(TypedDict, total=False):
    """The organizations of a round; empty for round 0, the base model.

    Attributes:
        asked: the request was sent to them.
        answered: their updates were aggregated.
        refused: organization → why its answer does not count.
    """

    asked: list[str]
    answered: list[str]
    refused: dict[str, str]


@dataclass(frozen=True)
class RoundLine:
    """A line of `rounds.jsonl`.

    Attributes:
        round: number of the round; 0 is the base model.
        organizations: which took part.
        bytes_up: size of all answers: updates and what accompanies them, without Flower's framing.
        bytes_down: size of all requests: adapters, plans and what accompanies them, without Flower's framing.
        seconds: duration of the exchange.
        metrics: on public data; empty if the round was not evaluated.
    """

    __pydantic_config__ = _STRICT
    round: int
    organizations: Participation
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    metrics: dict[str, int | float] = field(default_factory=dict)


def organizations_that_answered(rounds: Sequence[RoundLine]) -> set[str]:
    """Return the names of all organizations that answered at least one round."""
    return {name for line in rounds for name in line.organizations.get("answered", [])}

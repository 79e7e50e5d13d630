"""How many bytes a run transferred, and how many float32 would have taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.adapter.adapter import Shapes
from common.plan.plan import Plan
from common.plan.wire import Wire
from common.run.round_line import RoundLine

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes of all rounds and organizations.

    Attributes:
        up: noised updates and what accompanies them.
        down: adapters and what accompanies them.
        full: A and B, and a head, as float32 values alone, in both directions, for the same number of requests and
            answers.
    """

    up: int
    down: int
    full: int

    @property
    def share(self) -> float:
        """Transferred bytes as a share of `full`; plans and ledger heads count as transferred."""
        return (self.up + self.down) / max(1, self.full)


def traffic(rounds: Sequence[RoundLine], shapes: Shapes) -> Traffic:
    """Count the bytes of a run.

    Args:
        rounds: all rounds of the run.
        shapes: of every tensor of the adapter, including those that are never sent.

    >>> traffic([RoundLine(1, {"asked": ["a"], "answered": ["a"]}, bytes_up=30, bytes_down=50)], {"A": (2, 5)})
    Traffic(up=30, down=50, full=80)
    """
    messages = sum(
        len(line.organizations.get("asked", [])) + len(line.organizations.get("answered", [])) for line in rounds
    )
    numbers = sum(math.prod(shape) for shape in shapes.values())
    return Traffic(
        up=sum(line.bytes_up for line in rounds),
        down=sum(line.bytes_down for line in rounds),
        full=_FLOAT32_BYTES * numbers * messages,
    )


def compressed_share(plan: Plan, rounds: Sequence[RoundLine], shapes: Shapes) -> float | None:
    """Return the share of float32 A and B that was transferred; None if the plan sends float32."""
    return None if plan.wire == Wire() else traffic(rounds, shapes).share

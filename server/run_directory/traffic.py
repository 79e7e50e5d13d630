"""How many bytes a run has moved, and how many float32 would have taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.adapter.adapter import Shapes
from common.plan.wire import Wire
from server.run_directory.round_log import RoundLine
from server.run_directory.run_directory import RunDirectory

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes of all rounds and organizations.

    Attributes:
        up: of noised updates and all that came with them.
        down: of adapters and all that went with them.
        full: the numbers alone of float32 A and B, and of a head, both ways, for as many requests and answers.
    """

    up: int
    down: int
    full: int

    @property
    def share(self) -> float:
        """What was sent, as a share of `full`; plans and ledger heads count as sent."""
        return (self.up + self.down) / max(1, self.full)


def traffic(rounds: Sequence[RoundLine], shapes: Shapes) -> Traffic:
    """The bytes of a run.

    Args:
        rounds: lines of `rounds.jsonl`.
        shapes: of every tensor of the adapter, also of those that are never sent.
    """
    messages = sum(len(line.organizations.get(kind, [])) for line in rounds for kind in ("asked", "answered"))
    numbers = sum(math.prod(shape) for shape in shapes.values())
    return Traffic(
        up=sum(line.bytes_up for line in rounds),
        down=sum(line.bytes_down for line in rounds),
        full=_FLOAT32_BYTES * numbers * messages,
    )


def compressed_share(directory: RunDirectory) -> float | None:
    """The share of what float32 A and B would have taken; None where the plan sends float32."""
    if directory.plan.wire == Wire():
        return None
    return traffic(directory.rounds(), directory.info.shapes).share

"""The updates of one round, as they arrive: screened, spilled, and folded in the order of the names."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from common.adapter.adapter import Adapter
from common.plan.aggregation import Aggregation
from server.aggregation.mean import RunningMean, Tensors, root_mean_square
from server.aggregation.norm_screening import clipped, outliers
from server.aggregation.spill import Inbox


class Intake:
    """Takes the updates of a round; use it as a context.

    An update is folded into the running mean and dropped as soon as all before it, by name, are in or refused, so
    that the result does not depend on who answered first. Where the others have to be known before any is used,
    all wait on disk: for the norms of a round, and for methods that are no mean.

    Args:
        folder: its own, for what waits.
        aggregation: of the plan.
        weights: organization → weight, of all that were asked.

    Attributes:
        refused: organization → why, of those whose answer does not count.
        broken: so many of them sent something that is no honest update.
    """

    def __init__(self, folder: Path, aggregation: Aggregation, weights: Mapping[str, float]) -> None:
        self._inbox = Inbox(folder)
        self._aggregation = aggregation
        self._weights = dict(weights)
        self._pending = deque(sorted(weights))
        self._mean = RunningMean()
        self._norms: dict[str, float] = {}
        self._waits = aggregation.screen or not aggregation.is_mean
        self.refused: dict[str, str] = {}
        self.broken = 0

    def __enter__(self) -> Intake:
        self._inbox.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inbox.__exit__(kind, error, trace)

    def __contains__(self, organization: str) -> bool:
        """Whether an organization's answer is in, accepted or refused."""
        return organization in self._norms or organization in self.refused

    @property
    def accepted(self) -> list[str]:
        """The organizations whose updates are averaged, in the order of the names."""
        return sorted(self._norms.keys() - self.refused.keys())

    def take(self, organization: str, update: Adapter) -> None:
        """Take an update in, whose names, shapes and finite values were checked."""
        self._norms[organization] = root_mean_square(update)
        self._inbox.put(organization, clipped(update, self._aggregation.max_update_norm or math.inf))
        self._fold_ready()

    def refuse(self, organization: str, reason: str, *, broken: bool) -> None:
        """Note that an organization's answer does not count, and whether it is one that no honest vault gives."""
        self.refused[organization] = reason
        self.broken += broken
        self._fold_ready()

    def screen(self) -> None:
        """Refuse whose norm is far above the others', now that all are known, if the plan asks for it."""
        if self._aggregation.screen:
            for organization, reason in outliers(self._norms).items():
                self.refuse(organization, reason, broken=True)

    def mean(self) -> Adapter:
        """The weighted mean of the accepted updates; there must be one."""
        for organization in self._pending:
            self._fold(organization)
        self._pending.clear()
        return self._mean.result()

    def updates(self) -> list[Tensors]:
        """The accepted updates, in the order of the names, for methods that need all of them."""
        assert self._waits, "a mean that was folded on the way keeps none"
        return [self._inbox[organization] for organization in self.accepted]

    def _fold_ready(self) -> None:
        while not self._waits and self._pending and self._pending[0] in self:
            self._fold(self._pending.popleft())

    def _fold(self, organization: str) -> None:
        if organization in self._inbox and organization not in self.refused:
            self._mean.fold(self._inbox[organization], self._weights[organization])
            self._inbox.drop(organization)

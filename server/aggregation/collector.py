"""Collects the updates of one round: screening, spilling to disk, averaging in the order of names."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from common.adapter.adapter import Adapter
from common.plan.aggregation import Aggregation
from server.aggregation.mean import RunningMean, Tensors, root_mean_square
from server.aggregation.norm_screening import clip, outliers
from server.aggregation.spill import UpdateSpill


class UpdateCollector:
    """Collects the updates of a round; a context manager.

    An update is added to the running mean and deleted as soon as all organizations before it, in the order of
    names, were accepted or refused: the result does not depend on the order of arrival. Norm screening, and
    methods other than a mean, need all updates at once: then all are kept on disk.

    Args:
        folder: for updates on disk; used by nothing else.
        aggregation: of the plan.
        weights: organization → weight, for all organizations that were asked.

    Attributes:
        refused: organization → why its answer does not count.
        byzantine_detected: number of refused organizations whose answer no honest vault sends.
    """

    def __init__(self, folder: Path, aggregation: Aggregation, weights: Mapping[str, float]) -> None:
        self._spill = UpdateSpill(folder)
        self._aggregation = aggregation
        self._weights = dict(weights)
        self._pending = deque(sorted(weights))
        self._mean = RunningMean()
        self._norms: dict[str, float] = {}
        self._deferred = aggregation.screen or not aggregation.is_mean
        self.refused: dict[str, str] = {}
        self.byzantine_detected = 0

    def __enter__(self) -> UpdateCollector:
        self._spill.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spill.__exit__(kind, error, trace)

    def __contains__(self, organization: str) -> bool:
        """Return whether an organization was accepted or refused."""
        return organization in self._norms or organization in self.refused

    @property
    def accepted(self) -> list[str]:
        """The organizations whose updates are aggregated, in the order of names."""
        return sorted(self._norms.keys() - self.refused.keys())

    def accept(self, organization: str, update: Adapter) -> None:
        """Accept an update, whose names, shapes and finite values must have been checked."""
        self._norms[organization] = root_mean_square(update)
        self._spill.put(organization, clip(update, self._aggregation.max_update_norm or math.inf))
        self._fold_ready()

    def refuse(self, organization: str, reason: str, *, byzantine: bool) -> None:
        """Record that an organization's answer does not count.

        Args:
            organization: its name.
            reason: for the report of the round.
            byzantine: whether no honest vault sends such an answer.
        """
        self.refused[organization] = reason
        self.byzantine_detected += byzantine
        self._fold_ready()

    def screen(self) -> None:
        """Refuse updates whose norm is far above the others', if the plan enables it. Call it once, at the end."""
        if self._aggregation.screen:
            for organization, reason in outliers(self._norms).items():
                self.refuse(organization, reason, byzantine=True)

    def mean(self) -> Adapter:
        """Return the weighted mean of the accepted updates, at least one."""
        for organization in self._pending:
            self._fold(organization)
        self._pending.clear()
        return self._mean.result()

    def updates(self) -> list[Tensors]:
        """Return the accepted updates, in the order of names, for methods that need all of them."""
        assert self._deferred, "a running mean keeps no updates"
        return [self._spill[organization] for organization in self.accepted]

    def _fold_ready(self) -> None:
        while not self._deferred and self._pending and self._pending[0] in self:
            self._fold(self._pending.popleft())

    def _fold(self, organization: str) -> None:
        if organization in self._spill and organization not in self.refused:
            self._mean.fold(self._spill[organization], self._weights[organization])
            self._spill.drop(organization)

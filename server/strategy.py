"""What a round asks and how its answers become one update, as a Flower strategy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common import messages
from common.adapter import Adapter, AdapterError, Shapes, check, from_bytes
from common.errors import Refused
from common.plan import Plan
from common.protocol import TrainRequest
from server.aggregate import add, weighted_mean
from server.registry import Registry
from server.roster import Roster
from server.run_directory import RunInfo


@dataclass
class Outcome:
    """How a round ended: who answered, and who did not and why."""

    answered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


class LoraAveraging(Strategy):
    """Ask every organization; average the updates that pass the screen.

    Args:
        plan: of the run.
        info: the run's id and the fingerprint of its base model.
        shapes: the tensors that travel.
        roster: the organizations and their nodes.
        registry: knows the ledger heads that they have shown.

    Attributes:
        roster: the same.
        outcome: of the round that was aggregated last.
    """

    def __init__(self, plan: Plan, info: RunInfo, shapes: Shapes, roster: Roster, registry: Registry) -> None:
        self._plan = plan
        self._run = info.run
        self._fingerprint = info.fingerprint
        self._shapes = shapes
        self.roster = roster
        self._registry = registry
        self._adapter = b""
        self.outcome = Outcome()

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """The same request for every connected organization, each with its own ledger's newest head."""
        self._adapter = messages.array_bytes(arrays)
        request = TrainRequest(self._run, server_round, self._plan.canonical(), self._fingerprint, self._adapter)
        content = messages.pack_train(request)
        ttl = self._plan.federation.round_timeout
        return [
            Message(
                messages.with_seen(content, self._registry.newest(name)),
                node,
                messages.TRAIN,
                ttl=ttl,
                group_id=str(server_round),
            )
            for name, node in self.roster.nodes.items()
        ]

    def aggregate_train(
        self,
        server_round: int,
        replies: Iterable[Message],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The adapter after the round; None if fewer answered than the plan needs."""
        self.outcome = Outcome()
        updates = self._screen(replies)
        self.outcome.answered = sorted(updates)
        if len(updates) < self._plan.federation.min_organizations:
            return None, None
        equal = self._plan.aggregation.weights == "equal"
        # In the order of the names, so that the result does not depend on who answered first.
        names = self.outcome.answered
        sizes = [self.roster.described[name].public_size for name in names]
        mean = weighted_mean([updates[name] for name in names], [1] * len(names) if equal else sizes)
        adapter = add(from_bytes(self._adapter, self._shapes), mean)
        return messages.adapter_record(adapter), None

    def _screen(self, replies: Iterable[Message]) -> dict[str, Adapter]:
        """The updates with the exact names, shapes, types and finite values; the others are refused by name."""
        updates: dict[str, Adapter] = {}
        adapter = from_bytes(self._adapter, self._shapes)
        for reply in replies:
            name = self.roster.name_of(reply.metadata.src_node_id)
            try:
                release = messages.unpack_release(reply.content)
                self._registry.note(name, release.head)
                update = from_bytes(release.update, self._shapes)
                # Where each adapter after its own update is finite, so is the one after their mean.
                with np.errstate(over="ignore"):
                    check(add(adapter, update), self._shapes)
                updates[name] = update
            except (Refused, messages.MessageError, AdapterError) as error:
                self.outcome.refused[name] = str(error)
        return updates

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Nothing: metrics on private data never leave, so no organization is asked for any."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing, see `configure_evaluate`."""
        return None

    def summary(self) -> None:
        """Nothing: the run directory holds the plan."""

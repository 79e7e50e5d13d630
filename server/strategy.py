"""What a round asks and how its answers become one update, as a Flower strategy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common import messages
from common.adapter import Adapter, AdapterError, Shapes, check, from_bytes, sent, to_wire
from common.errors import Refused
from common.plan import Plan
from common.protocol import TrainRequest
from common.rounding import PublicUniforms
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
        shapes: the tensors that the plan trains.
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
        # The float32 adapter, and the part of it that travels in this round.
        self._adapter: Adapter = {}
        self._sent: Adapter = {}
        self.outcome = Outcome()

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """The same request for every connected organization, each with its own ledger's newest head.

        The rounding follows from run and round alone: asked again, also by a run that was resumed, the request is
        the same to the last byte, and costs nobody anything.
        """
        self._adapter = messages.adapter_from_record(arrays, self._shapes)
        names = sent(self._shapes, head_only=self._plan.training.is_head_alone(server_round))
        self._sent = {name: self._adapter[name] for name in names}
        rounding = PublicUniforms("adapter", self._run, server_round)
        data = to_wire(self._sent, self._plan.wire.adapter, rounding)
        request = TrainRequest(self._run, server_round, self._plan.canonical(), self._fingerprint, data)
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
        # To what is kept in float32, not to what was sent: that was right on average, and errors of the rounding
        # would add up from round to round.
        return messages.adapter_record({**self._adapter, **add(self._sent, mean)}), None

    def _screen(self, replies: Iterable[Message]) -> dict[str, Adapter]:
        """The updates with the exact names, shapes, types and finite values; the others are refused by name."""
        updates: dict[str, Adapter] = {}
        shapes = {name: tensor.shape for name, tensor in self._sent.items()}
        for reply in replies:
            name = self.roster.name_of(reply.metadata.src_node_id)
            try:
                release = messages.unpack_release(reply.content)
                self._registry.note(name, release.head)
                update = from_bytes(release.update, shapes, self._plan.wire.update)
                # Where each adapter after its own update is finite, so is the one after their mean.
                with np.errstate(over="ignore"):
                    check(add(self._sent, update), shapes)
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

"""The Flower strategy: the requests of a round, and the aggregation of its answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common.adapter.adapter import (
    Adapter,
    AdapterError,
    at_rank,
    check,
    from_bytes,
    initial,
    round_shapes,
    to_wire,
    truncate_rank,
)
from common.adapter.rounding import PublicUniforms
from common.errors import Refused, SottoError
from common.flower import codec
from common.plan.aggregation import Aggregation
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest
from server.aggregation.collector import UpdateCollector
from server.aggregation.mean import add
from server.aggregation.optimizers import ServerState, step
from server.aggregation.products import mean_of_changes, mean_of_products
from server.aggregation.robust import robust_mean, updates_needed
from server.registry.heads import LedgerHeads
from server.rounds.roster import Roster
from server.run_directory.run_directory import RunDirectory

_log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """The outcome of a round.

    Attributes:
        answered: organizations whose updates were aggregated.
        refused: organization → why its answer does not count.
        needed: number of answers that the round needed.
    """

    answered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    needed: int = 0


def remaining_byzantine(aggregation: Aggregation, detected: int) -> int:
    """Return how many hostile organizations may remain in a round after some were detected."""
    return max(0, (aggregation.byzantine or 0) - detected)


def organizations_needed(plan: Plan, detected: int = 0) -> int:
    """Return the smallest number of updates that a round of a plan can aggregate.

    Args:
        plan: of the run.
        detected: number of hostile organizations that were detected and refused.
    """
    aggregation = plan.aggregation
    robust = updates_needed(aggregation.robust, remaining_byzantine(aggregation, detected))
    return max(plan.federation.min_organizations, robust)


def _check_finite(state: ServerState, round_number: int) -> ServerState:
    """Return the state if it is finite. As all updates are, other values come from the optimizer.

    Raises:
        SottoError: the state is not finite.
    """
    parts = (state.adapter, state.momentum, state.variance, state.average)
    if all(np.isfinite(tensor).all() for part in parts for tensor in part.values()):
        return state
    raise SottoError(f"round {round_number}: the state of the server's optimizer is not finite")


class LoraAveraging(Strategy):
    """Asks every connected organization, and averages the updates that pass the screening.

    Args:
        directory: of the run.
        roster: the organizations and their nodes.
        state: of the server after the last completed round.

    Attributes:
        roster: as given.
        state: after the last aggregated round.
        outcome: of the last aggregated round.
    """

    def __init__(self, directory: RunDirectory, roster: Roster, state: ServerState) -> None:
        self._plan = directory.plan
        self._run = directory.info.run
        self._fingerprint = directory.info.fingerprint
        self._shapes = directory.trained_shapes
        self._heads = LedgerHeads(directory.info.registry_folder)
        self._folder = directory.path / "updates"
        self.roster = roster
        self.state = state
        # Of this round: rank → adapter that the training starts from; organization → rank; organization → weight.
        self._starts: dict[int, Adapter] = {}
        self._ranks: dict[str, int] = {}
        self._weights: dict[str, float] = {}
        self.outcome = Outcome()

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Create the requests: equal for all organizations of a rank, except for the head of each one's ledger.

        The rounding is determined by run and round. A repeated request, also of a resumed run, is therefore
        identical to the last byte and costs no privacy budget.
        """
        adapter = codec.adapter_from_record(arrays, self._shapes)
        self.state = replace(self.state, adapter=adapter)
        nodes, descriptions = self.roster.nodes, self.roster.descriptions
        equal = self._plan.aggregation.weights == "equal"
        self._weights = {name: 1.0 if equal else float(descriptions[name].public_size) for name in nodes}
        self._ranks = {name: self._plan.lora.own_rank(descriptions[name].max_rank) for name in nodes}
        self._starts = {}
        contents = {rank: self._request(server_round, rank) for rank in sorted(set(self._ranks.values()))}
        ttl = self._plan.federation.round_timeout
        return [
            Message(
                codec.with_seen(contents[self._ranks[name]], self._heads.newest(name)),
                node,
                codec.TRAIN,
                ttl=ttl,
                group_id=str(server_round),
            )
            for name, node in nodes.items()
        ]

    def _request(self, server_round: int, rank: int) -> RecordDict:
        """Create the request for a rank, and remember the adapter that its training starts from."""
        adapter, shapes = truncate_rank(self.state.adapter, rank), self._round_shapes(server_round, rank)
        rounding, number_format = PublicUniforms("adapter", self._run, server_round), self._plan.wire.adapter
        data = to_wire({name: adapter[name] for name in shapes}, number_format, rounding)
        self._starts[rank] = {**adapter, **from_bytes(data, shapes, number_format)}
        return codec.pack_train(
            TrainRequest(self._run, server_round, self._plan.canonical(), self._fingerprint, data)
        )

    def aggregate_train(
        self,
        server_round: int,
        replies: Iterable[Message],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the adapter after the round; None if there are too few updates.

        Args:
            server_round: number of the round, from 1.
            replies: consumed one by one.
        """
        with UpdateCollector(self._folder, self._plan.aggregation, self._weights) as collector:
            for reply in replies:
                self._receive(server_round, reply, collector)
            collector.screen()
            self.outcome = Outcome(
                collector.accepted,
                collector.refused,
                organizations_needed(self._plan, collector.byzantine_detected),
            )
            if len(collector.accepted) < self.outcome.needed:
                return None, None
            self.state = _check_finite(self._next_state(server_round, collector), server_round)
        return codec.adapter_record(self.state.adapter), None

    def _next_state(self, server_round: int, collector: UpdateCollector) -> ServerState:
        """Return the state after the accepted updates."""
        aggregation = self._plan.aggregation
        if aggregation.averages_products:
            weights = [self._weights[name] for name in collector.accepted]
            first = initial(self._shapes, self._plan.lora.seed)
            # The adapters as the organizations received them, after rounding.
            starts = [self._starts[self._ranks[name]] for name in collector.accepted]
            mean = mean_of_products if aggregation.method == "svd" else mean_of_changes
            return ServerState(mean(self.state.adapter, starts, collector.updates(), weights, first))
        if aggregation.robust == "none":
            update = collector.mean()
        else:
            byzantine = remaining_byzantine(aggregation, collector.byzantine_detected)
            update = robust_mean(aggregation.robust, collector.updates(), byzantine)
        # Applied to the float32 state, not to the rounded adapter that was sent: rounding errors do not add up.
        return step(self.state, update, aggregation, server_round)

    def _round_shapes(self, server_round: int, rank: int) -> dict[str, tuple[int, ...]]:
        return round_shapes(at_rank(self._shapes, rank), head_only=self._plan.training.is_head_alone(server_round))

    def _receive(self, server_round: int, reply: Message, collector: UpdateCollector) -> None:
        """Accept an update with the expected names, shapes, types and finite values; refuse any other."""
        name = self.roster.name_of(reply.metadata.src_node_id)
        if name in collector:
            _log.warning("round %d: %s answered twice; the first answer counts", server_round, name)
            return
        try:
            release = codec.unpack_release(reply.content)
            self._heads.record(name, release.head)
            if reply.metadata.group_id != str(server_round):
                raise codec.MessageError(f"the answer is for another round than {server_round}")
            rank = self._ranks[name]
            if (reason := self._plan.lora.refusal(rank)) is not None:
                raise codec.MessageError(reason)
            shapes = self._round_shapes(server_round, rank)
            # Zeros for tensors that the round does not change and that are not sent.
            before = truncate_rank(self.state.adapter, rank)
            update = {n: np.zeros_like(tensor) for n, tensor in before.items() if n not in shapes}
            update |= from_bytes(release.update, shapes, self._plan.wire.update)
            # If the adapter is finite after each single update, it is finite after their mean.
            with np.errstate(over="ignore"):
                check(add(before, update), at_rank(self._shapes, rank))
        except Refused as error:
            collector.refuse(name, str(error), byzantine=False)
        except (codec.MessageError, AdapterError) as error:
            collector.refuse(name, str(error), byzantine=True)
        else:
            collector.accept(name, update)

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Return no requests: metrics on private data never leave an organization."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing, see `configure_evaluate`."""
        return None

    def summary(self) -> None:
        """Do nothing: the run directory contains the plan."""

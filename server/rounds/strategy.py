"""What a round asks and how its answers become one update, as a Flower strategy."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common.adapter.adapter import Adapter, AdapterError, at_rank, check, cut, from_bytes, initial, sent, to_wire
from common.adapter.rounding import PublicUniforms
from common.errors import Refused, SottoError
from common.flower import codec
from common.plan.aggregation import Aggregation
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest
from server.aggregation.collector import Intake
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
    """How a round ended: who answered, and who did not and why; how many answers it needed."""

    answered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    needed: int = 0


def byzantine_left(aggregation: Aggregation, broken: int) -> int:
    """How many hostile organizations may be left among a round's updates, when so many were found out."""
    return max(0, (aggregation.byzantine or 0) - broken)


def organizations_needed(plan: Plan, broken: int = 0) -> int:
    """The least number of updates that a round of a plan can be made of.

    Args:
        plan: of the run.
        broken: so many organizations sent something that is no honest update.
    """
    aggregation = plan.aggregation
    robust = updates_needed(aggregation.robust, byzantine_left(aggregation, broken))
    return max(plan.federation.min_organizations, robust)


def _finite(state: ServerState, round_number: int) -> ServerState:
    """The state after a round. Each update was finite: what is not is the optimizer's doing.

    Raises:
        SottoError: it is not finite.
    """
    parts = (state.adapter, state.momentum, state.variance, state.average)
    if all(np.isfinite(tensor).all() for part in parts for tensor in part.values()):
        return state
    raise SottoError(f"round {round_number}: the server's optimizer left numbers that are not finite")


class LoraAveraging(Strategy):
    """Ask every organization; average the updates that pass the screen.

    Args:
        directory: of the run.
        roster: the organizations and their nodes.
        state: what the server knows after the last round.

    Attributes:
        roster: the same.
        state: after the round that was aggregated last.
        outcome: of the round that was aggregated last.
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
        # Rank → what this round's training begins with there; and who has which rank in this round.
        self._begun: dict[int, Adapter] = {}
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
        """The same request for all connected organizations of a rank, each with its own ledger's newest head.

        The rounding follows from run and round alone: asked again, also by a run that was resumed, the request is
        the same to the last byte, and costs nobody anything.
        """
        adapter = codec.adapter_from_record(arrays, self._shapes)
        self.state = replace(self.state, adapter=adapter)
        nodes, described = self.roster.nodes, self.roster.described
        equal = self._plan.aggregation.weights == "equal"
        self._weights = {name: 1.0 if equal else float(described[name].public_size) for name in nodes}
        self._ranks = {name: self._plan.lora.own_rank(described[name].max_rank) for name in nodes}
        self._begun = {}
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
        """What all organizations of a rank are asked; notes what their training begins with."""
        adapter, shapes = cut(self.state.adapter, rank), self._sent_shapes(server_round, rank)
        rounding, number_format = PublicUniforms("adapter", self._run, server_round), self._plan.wire.adapter
        data = to_wire({name: adapter[name] for name in shapes}, number_format, rounding)
        self._begun[rank] = {**adapter, **from_bytes(data, shapes, number_format)}
        return codec.pack_train(
            TrainRequest(self._run, server_round, self._plan.canonical(), self._fingerprint, data)
        )

    def aggregate_train(
        self,
        server_round: int,
        replies: Iterable[Message],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The adapter after the round; None if fewer updates can be averaged than are needed.

        Args:
            server_round: its number, from 1.
            replies: taken in one by one; none is kept.
        """
        with Intake(self._folder, self._plan.aggregation, self._weights) as intake:
            for reply in replies:
                self._receive(server_round, reply, intake)
            intake.screen()
            self.outcome = Outcome(
                intake.accepted, intake.refused, organizations_needed(self._plan, intake.broken)
            )
            if len(intake.accepted) < self.outcome.needed:
                return None, None
            self.state = _finite(self._next_state(server_round, intake), server_round)
        return codec.adapter_record(self.state.adapter), None

    def _next_state(self, server_round: int, intake: Intake) -> ServerState:
        """What the plan's aggregation makes of the accepted updates."""
        aggregation = self._plan.aggregation
        if aggregation.averages_products:
            weights = [self._weights[name] for name in intake.accepted]
            fresh = initial(self._shapes, self._plan.lora.seed)
            # Products are of what the organizations began with, after any rounding on the way.
            starts = [self._begun[self._ranks[name]] for name in intake.accepted]
            joined = mean_of_products if aggregation.method == "svd" else mean_of_changes
            return ServerState(joined(self.state.adapter, starts, intake.updates(), weights, fresh))
        if aggregation.robust == "none":
            update = intake.mean()
        else:
            left = byzantine_left(aggregation, intake.broken)
            update = robust_mean(aggregation.robust, intake.updates(), left)
        # To what is kept in float32, not to what was sent: that was right on average, and errors of the rounding
        # would add up from round to round.
        return step(self.state, update, aggregation, server_round)

    def _sent_shapes(self, server_round: int, rank: int) -> dict[str, tuple[int, ...]]:
        return sent(at_rank(self._shapes, rank), head_only=self._plan.training.is_head_alone(server_round))

    def _receive(self, server_round: int, reply: Message, intake: Intake) -> None:
        """Take an update with the exact names, shapes, types and finite values; refuse any other by name."""
        name = self.roster.name_of(reply.metadata.src_node_id)
        if name in intake:
            _log.warning("round %d: %s answered twice; the first answer counts", server_round, name)
            return
        try:
            release = codec.unpack_release(reply.content)
            self._heads.note(name, release.head)
            if reply.metadata.group_id != str(server_round):
                raise codec.MessageError(f"the answer is for another round than {server_round}")
            rank = self._ranks[name]
            if (reason := self._plan.lora.refusal(rank)) is not None:
                raise codec.MessageError(reason)
            shapes = self._sent_shapes(server_round, rank)
            # Zeros for what the round does not change and nobody sends.
            before = cut(self.state.adapter, rank)
            update = {n: np.zeros_like(tensor) for n, tensor in before.items() if n not in shapes}
            update |= from_bytes(release.update, shapes, self._plan.wire.update)
            # Where each adapter after its own update is finite, so is the one after their mean.
            with np.errstate(over="ignore"):
                check(add(before, update), at_rank(self._shapes, rank))
        except Refused as error:
            intake.refuse(name, str(error), broken=False)
        except (codec.MessageError, AdapterError) as error:
            intake.refuse(name, str(error), broken=True)
        else:
            intake.take(name, update)

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

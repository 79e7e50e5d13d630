"""The round loop: send the adapter, wait for the updates, aggregate, evaluate on public data, keep.

It knows nothing of how organizations are reached: that is the Flower grid's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from common import messages
from common.adapter import Adapter
from common.errors import Refused, SottoError
from server.roster import Roster, pull_reply
from server.run_directory import RoundLine, RunDirectory
from server.strategy import LoraAveraging, Outcome

Evaluator = Callable[[Adapter], dict[str, float]]

_POLL_SECONDS = 0.05
# A message that Flower could not deliver is sent again: first after so long, then after twice as long, and so on.
_RESEND_SECONDS = 1.0
# When enough have answered, a round waits so long for an organization whose connection was lost.
_RETURN_SECONDS = 30.0
# How long a run that could begin waits for connected organizations that have not said who they are.
_SETTLE_SECONDS = 15.0


class Observer:
    """Told of the progress of a run. Does nothing by itself."""

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """So many organizations are connected; the plan needs more."""

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """A round begins with these organizations; so many rounds are complete."""

    def answered(self, organization: str) -> None:
        """An answer of the current round arrived."""

    def finished(self, line: RoundLine) -> None:
        """A round is complete and stored."""


class Observers(Observer):
    """Several observers as one.

    Args:
        observers: each is told everything, in this order.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """Tell all."""
        names = list(connected)
        for observer in self._observers:
            observer.waiting(names, needed)

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """Tell all."""
        names = list(organizations)
        for observer in self._observers:
            observer.started(names, completed)

    def answered(self, organization: str) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.answered(organization)

    def finished(self, line: RoundLine) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.finished(line)


def run_rounds(grid: Grid, directory: RunDirectory, evaluate: Evaluator | None, observer: Observer) -> Adapter:
    """Run the rounds that a run still lacks.

    Args:
        grid: reaches the organizations.
        directory: of the run; its latest checkpoint is where it begins.
        evaluate: metrics of an adapter on public data, if there is any.
        observer: told of the progress.

    Returns:
        The adapter after the last round.

    Raises:
        SottoError: too few organizations are there or answered; the run can be resumed.
    """
    plan, info = directory.plan, directory.info
    done, adapter = directory.latest_checkpoint()
    roster = Roster(grid)
    wait_for_organizations(roster, plan.federation.min_organizations, plan.federation.round_timeout, observer)
    if not directory.forget_rounds_after(done):
        line = RoundLine(0, {}, metrics=evaluate(adapter) if evaluate else {})
        directory.append_round(line)
        observer.finished(line)
    strategy = LoraAveraging(plan, info.run, info.fingerprint, directory.trained_shapes, roster)
    stated: set[str] = set()
    for number in range(done + 1, plan.training.rounds + 1):
        adapter, line = _run_round(number, adapter, grid, directory, strategy, evaluate, observer)
        directory.append_round(line)
        # The checkpoint comes last: it is what makes the round count when the run is resumed.
        directory.write_checkpoint(number, adapter)
        observer.finished(line)
        if info.private and not stated.issuperset(strategy.outcome.answered):
            # The whole run is charged by now: what it cost is known even if it never ends.
            stated |= collect_statements(grid, directory, roster)
    if info.private:
        collect_statements(grid, directory, roster)
    return adapter


def _run_round(
    number: int,
    adapter: Adapter,
    grid: Grid,
    directory: RunDirectory,
    strategy: LoraAveraging,
    evaluate: Evaluator | None,
    observer: Observer,
) -> tuple[Adapter, RoundLine]:
    """The adapter after one more round, and what `rounds.jsonl` says of it."""
    federation, roster = directory.plan.federation, strategy.roster
    start = time.monotonic()
    roster.look()
    asked = list(roster.nodes)
    observer.started(asked, number - 1)
    requests = list(strategy.configure_train(number, messages.adapter_record(adapter), ConfigRecord(), grid))
    replies = exchange(
        grid,
        roster,
        dict(zip(asked, requests, strict=True)),
        federation.round_timeout,
        enough=federation.min_organizations,
        on_reply=observer.answered,
    )
    seconds = time.monotonic() - start
    arrays, _ = strategy.aggregate_train(number, list(replies.values()))
    strategy.outcome.refused |= {
        name: f"no answer within {seconds:.0f} seconds" for name in asked if name not in replies
    }
    if arrays is None:
        raise SottoError(_too_few(number, strategy.outcome, federation.min_organizations))
    adapter = messages.adapter_from_record(arrays, directory.trained_shapes)
    line = RoundLine(
        round=number,
        organizations={"asked": asked, **asdict(strategy.outcome)},
        bytes_up=sum(messages.payload_size(reply.content) for reply in replies.values()),
        bytes_down=sum(messages.payload_size(request.content) for request in requests),
        seconds=round(seconds, 3),
        metrics=evaluate(adapter) if evaluate else {},
    )
    return adapter, line


def wait_for_organizations(roster: Roster, needed: int, timeout: float, observer: Observer) -> None:
    """Wait until enough organizations are connected and have said who they are.

    Raises:
        SottoError: too few came in time, or two have one name.
    """
    begin = time.monotonic()
    told: list[str] | None = None
    while time.monotonic() - begin < timeout:
        roster.look()
        names = list(roster.nodes)
        if len(names) >= needed and (roster.settled or time.monotonic() - begin > _SETTLE_SECONDS):
            return
        if names != told:
            told = names
            observer.waiting(names, needed)
        time.sleep(_POLL_SECONDS)
    reasons = "; ".join(f"a node does not say who it is: {reason}" for reason in roster.silent.values())
    raise SottoError(
        f"{len(roster.nodes)} organizations are connected; the plan needs {needed}"
        + (f" ({reasons})" if reasons else "")
    )


def collect_statements(grid: Grid, directory: RunDirectory, roster: Roster) -> set[str]:
    """Ask each organization what the run costs it, and keep what it says.

    Returns:
        The names of those that stated something.
    """
    timeout = directory.plan.federation.round_timeout
    query = messages.pack_query(directory.info.run)
    queries = {name: Message(query, node, messages.STATEMENT, ttl=timeout) for name, node in roster.nodes.items()}
    stated = set()
    for name, reply in exchange(grid, roster, queries, timeout, enough=0).items():
        try:
            statement = messages.unpack_statement(reply.content)
        except (Refused, messages.MessageError):
            continue  # it took part in no round, so that the run cost it nothing
        if statement.organization == name:
            directory.write_statement(statement)
            stated.add(name)
    return stated


@dataclass
class _Waiting:
    """An organization that was asked and has not answered."""

    request: Message
    node: int
    identity: str
    lost_at: float | None = None
    resend_at: float = 0.0
    pause: float = _RESEND_SECONDS

    def lose(self) -> None:
        """Flower could not deliver the message, or its answer."""
        self.lost_at = time.monotonic()
        self.resend_at = self.lost_at + self.pause
        self.pause *= 2
        self.identity = ""

    @property
    def is_gone(self) -> bool:
        """Whether the connection was lost long ago."""
        return self.lost_at is not None and time.monotonic() - self.lost_at > _RETURN_SECONDS


def exchange(
    grid: Grid,
    roster: Roster,
    requests: dict[str, Message],
    timeout: float,
    *,
    enough: int,
    on_reply: Callable[[str], None] = lambda _: None,
) -> dict[str, Message]:
    """Send each organization its message and wait for the answers.

    What Flower could not deliver, because a relay died for instance, is sent again, also to the node as which
    an organization comes back: the same request costs nothing twice. (Flower's own `send_and_receive` looks for
    replies every three seconds only, and takes a lost node for an answer.)

    Args:
        grid: reaches the nodes.
        roster: knows the organizations' nodes.
        requests: organization → its message.
        timeout: seconds to wait at most.
        enough: when so many have answered, those whose connection was lost are not waited for to the end.
        on_reply: told who answered.

    Returns:
        Organization → its reply, of those that answered.
    """
    deadline = time.monotonic() + timeout
    waiting: dict[str, _Waiting] = {}
    replies: dict[str, Message] = {}
    for name, identity in zip(requests, grid.push_messages(list(requests.values())), strict=True):
        # Flower gives no id for a message that it cannot take, as to a node that has just left.
        waiting[name] = _Waiting(requests[name], requests[name].metadata.dst_node_id, identity or "")
    while waiting and time.monotonic() < deadline:
        arrived = False
        for name, item in list(waiting.items()):
            reply = pull_reply(grid, item.identity, item.node) if item.identity else None
            if reply is None:
                continue
            arrived = True
            if reply.has_error():
                item.lose()
                continue
            replies[name] = reply
            del waiting[name]
            on_reply(name)
        if not arrived:
            roster.look()
            _resend(grid, roster, waiting, deadline)
            if len(replies) >= enough and all(item.is_gone for item in waiting.values()):
                break
            time.sleep(_POLL_SECONDS)
    return replies


def _resend(grid: Grid, roster: Roster, waiting: dict[str, _Waiting], deadline: float) -> None:
    now = time.monotonic()
    nodes = roster.nodes
    for name, item in waiting.items():
        node = nodes.get(name)
        if node is None:
            # Not connected now. Flower does not always say so by an error.
            item.lost_at = item.lost_at or now
            continue
        if item.identity:
            item.lost_at = None
        moved = node != item.node
        again = item.identity == "" and now >= item.resend_at
        if not (moved or again):
            continue
        old = item.request.metadata
        message = Message(
            item.request.content, node, old.message_type, ttl=max(1.0, deadline - now), group_id=old.group_id
        )
        (identity,) = grid.push_messages([message])
        item.node, item.identity, item.lost_at = node, identity or "", None
        item.resend_at = now + item.pause


def _too_few(number: int, outcome: Outcome, needed: int) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(outcome.refused.items()))
    return f"round {number}: {len(outcome.answered)} organizations answered, the plan needs {needed}" + (
        f" ({reasons})" if reasons else ""
    )

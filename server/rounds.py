"""The round loop: send the adapter, wait for the updates, aggregate, evaluate on public data, keep.

It knows nothing of how organizations are reached: that is the Flower grid's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from common import messages
from common.adapter import Adapter
from common.errors import Refused, SottoError
from common.protocol import Description
from server.run_directory import RoundLine, RunDirectory
from server.strategy import LoraAveraging, Outcome

Evaluator = Callable[[Adapter], dict[str, float]]

_POLL_SECONDS = 0.05


class Observer:
    """Told of the progress of a run. Does nothing by itself."""

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """The organizations are known; so many rounds were completed earlier."""

    def answered(self, organization: str) -> None:
        """An answer of the current round arrived."""

    def finished(self, line: RoundLine) -> None:
        """A round is complete and stored."""


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
    organizations = find_organizations(grid, plan.federation.min_organizations, plan.federation.round_timeout)
    observer.started([description.organization for description in organizations.values()], done)
    if not directory.forget_rounds_after(done):
        line = RoundLine(0, {}, metrics=evaluate(adapter) if evaluate else {})
        directory.append_round(line)
        observer.finished(line)
    strategy = LoraAveraging(plan, info.run, info.fingerprint, directory.trained_shapes, organizations)
    for number in range(done + 1, plan.training.rounds + 1):
        adapter, line = _run_round(number, adapter, grid, directory, strategy, evaluate, observer)
        directory.append_round(line)
        # The checkpoint comes last: it is what makes the round count when the run is resumed.
        directory.write_checkpoint(number, adapter)
        observer.finished(line)
        if info.private and number == done + 1:
            # The whole run is charged by now: what it cost is known even if it never ends.
            collect_statements(grid, directory, organizations)
    if info.private:
        collect_statements(grid, directory, organizations)
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
    federation, names = directory.plan.federation, strategy.names
    start = time.monotonic()
    requests = list(strategy.configure_train(number, messages.adapter_record(adapter), ConfigRecord(), grid))
    replies = exchange(
        grid,
        requests,
        federation.round_timeout,
        lambda reply: observer.answered(names[reply.metadata.src_node_id]),
    )
    arrays, _ = strategy.aggregate_train(number, replies)
    if arrays is None:
        raise SottoError(_too_few(number, strategy.outcome, federation.min_organizations))
    adapter = messages.adapter_from_record(arrays, directory.trained_shapes)
    line = RoundLine(
        round=number,
        organizations={"asked": sorted(names.values()), **asdict(strategy.outcome)},
        bytes_up=sum(messages.payload_size(reply.content) for reply in replies if reply.has_content()),
        bytes_down=sum(messages.payload_size(request.content) for request in requests),
        seconds=round(time.monotonic() - start, 3),
        metrics=evaluate(adapter) if evaluate else {},
    )
    return adapter, line


def find_organizations(grid: Grid, needed: int, timeout: float) -> dict[int, Description]:
    """Wait for enough organizations and ask each who it is.

    Returns:
        Node id → description.

    Raises:
        SottoError: too few came in time, or two have one name.
    """
    deadline = time.monotonic() + timeout
    nodes = list(grid.get_node_ids())
    while len(nodes) < needed and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        nodes = list(grid.get_node_ids())
    if len(nodes) < needed:
        raise SottoError(f"{len(nodes)} organizations are connected; the plan needs {needed}")
    queries = [Message(messages.pack_query(), node, messages.DESCRIBE, ttl=timeout) for node in sorted(nodes)]
    organizations: dict[int, Description] = {}
    for reply in exchange(grid, queries, timeout):
        try:
            organizations[reply.metadata.src_node_id] = messages.unpack_description(reply.content)
        except (Refused, messages.MessageError, ValueError) as error:
            raise SottoError(f"node {reply.metadata.src_node_id} does not say who it is: {error}") from None
    names = [description.organization for description in organizations.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SottoError(f"two organizations have the name {twice[0]!r}; each needs its own")
    if len(names) < needed:
        raise SottoError(f"{len(names)} organizations answered; the plan needs {needed}")
    return organizations


def collect_statements(grid: Grid, directory: RunDirectory, organizations: dict[int, Description]) -> None:
    """Ask each organization what the run costs it, and keep what it says."""
    timeout = directory.plan.federation.round_timeout
    query = messages.pack_query(directory.info.run)
    queries = [Message(query, node, messages.STATEMENT, ttl=timeout) for node in sorted(organizations)]
    for reply in exchange(grid, queries, timeout):
        try:
            statement = messages.unpack_statement(reply.content)
        except Refused:
            continue  # it took part in no round, so that the run cost it nothing
        if statement.organization == organizations[reply.metadata.src_node_id].organization:
            directory.write_statement(statement)


def exchange(
    grid: Grid,
    requests: list[Message],
    timeout: float,
    on_reply: Callable[[Message], None] = lambda _: None,
) -> list[Message]:
    """Send messages and wait until all are answered or the time is over.

    Flower's own `send_and_receive` looks for replies every three seconds only.
    """
    deadline = time.monotonic() + timeout
    waiting = dict.fromkeys(grid.push_messages(requests))
    replies: list[Message] = []
    while waiting and time.monotonic() < deadline:
        arrived = list(grid.pull_messages(list(waiting)))
        for reply in arrived:
            waiting.pop(reply.metadata.reply_to_message_id, None)
            replies.append(reply)
            on_reply(reply)
        if not arrived:
            time.sleep(_POLL_SECONDS)
    return replies


def _too_few(number: int, outcome: Outcome, needed: int) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(outcome.refused.items()))
    return f"round {number}: {len(outcome.answered)} organizations answered, the plan needs {needed}" + (
        f" ({reasons})" if reasons else ""
    )

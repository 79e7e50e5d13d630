"""Exchange of one message and its answer with each organization, with retries if a relay dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from server.rounds.roster import Roster, pull_reply

# The interval grows to a twentieth of the waiting time: each poll costs the SuperLink milliseconds.
_POLL_SECONDS, _LONGEST_POLL_SECONDS, _POLL_SHARE = 0.05, 0.5, 0.05
# Delay before an undelivered message is sent again; it doubles each time.
_RESEND_SECONDS = 1.0
# When enough have answered, how long to wait for an organization whose connection was lost.
_RETURN_SECONDS = 30.0
# A connected organization that has not answered for this long is asked again, then after twice as long: its
# process may have been restarted unnoticed. A repeated request does not repeat the training.
_SILENT_SECONDS = 60.0


@dataclass
class _Pending:
    """An organization that has not answered yet.

    Attributes:
        request: the message.
        node: to which the request was last sent.
        message_ids: message id → node, for requests that may still be answered.
        was_away: whether the node was disconnected since the request was last sent.
        lost_at: time when the connection was lost; None while connected.
        resend_at: earliest time to resend an undelivered request.
        resend_delay: before the next resend.
        repeat_at: time to resend the request although nothing is known to be lost.
        repeat_delay: before the next such resend.
    """

    request: Message
    node: int
    message_ids: dict[str, int]
    was_away: bool = False
    lost_at: float | None = None
    resend_at: float = 0.0
    resend_delay: float = _RESEND_SECONDS
    repeat_at: float = field(default_factory=lambda: time.monotonic() + _SILENT_SECONDS)
    repeat_delay: float = _SILENT_SECONDS

    def mark_undelivered(self, message_id: str) -> None:
        """Record that Flower could not deliver a request or its answer."""
        del self.message_ids[message_id]
        if not self.message_ids:
            self.lost_at = time.monotonic()
            self.resend_at = self.lost_at + self.resend_delay
            self.resend_delay *= 2

    def mark_sent(self, node: int, message_id: str | None) -> None:
        """Record that the request was sent again. Earlier requests may still be answered."""
        now = time.monotonic()
        self.message_ids |= {message_id: node} if message_id else {}
        self.node, self.was_away, self.lost_at = node, False, None
        self.resend_at = now + self.resend_delay
        self.repeat_delay *= 2
        self.repeat_at = now + self.repeat_delay

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost too long ago to wait for it."""
        return self.lost_at is not None and time.monotonic() - self.lost_at > _RETURN_SECONDS


def exchange(
    grid: Grid,
    roster: Roster,
    requests: dict[str, Message],
    timeout: float,
    *,
    enough: int,
) -> Iterator[tuple[str, Message]]:
    """Send each organization its message and yield the answers as they arrive.

    Undelivered messages are sent again, also to a new node under which an organization returns: a repeated request
    costs no privacy budget. (Flower's `send_and_receive` polls every three seconds, and treats a lost node as an
    answer.)

    Args:
        grid: connected to the nodes.
        roster: the organizations and their nodes.
        requests: organization → its message.
        timeout: maximum duration, in seconds.
        enough: number of answers after which lost organizations are not waited for until the timeout.

    Yields:
        Organization and reply, once for each organization that answers.
    """
    begin = time.monotonic()
    deadline = begin + timeout
    pending: dict[str, _Pending] = {}
    answered = 0
    for name, message_id in zip(requests, grid.push_messages(list(requests.values())), strict=True):
        # Flower returns no id for a message that it rejects, such as to a node that has just disconnected.
        node = requests[name].metadata.dst_node_id
        pending[name] = _Pending(requests[name], node, {message_id: node} if message_id else {})
    while pending and time.monotonic() < deadline:
        arrived = False
        for name, item in list(pending.items()):
            reply = _pull(grid, item)
            if reply is None:
                continue
            arrived = True
            answered += 1
            del pending[name]
            yield name, reply
        if not arrived:
            roster.refresh()
            _resend(grid, roster, pending, deadline)
            if answered >= enough and all(item.is_lost for item in pending.values()):
                break
            time.sleep(max(_POLL_SECONDS, min(_LONGEST_POLL_SECONDS, _POLL_SHARE * (time.monotonic() - begin))))


def _pull(grid: Grid, item: _Pending) -> Message | None:
    """Return the answer of an organization, if it has arrived."""
    for message_id, node in list(item.message_ids.items()):
        reply = pull_reply(grid, message_id, node)
        if reply is not None and not reply.has_error():
            return reply
        if reply is not None:
            item.mark_undelivered(message_id)
    return None


def _resend(grid: Grid, roster: Roster, pending: dict[str, _Pending], deadline: float) -> None:
    now = time.monotonic()
    nodes = roster.nodes
    for name, item in pending.items():
        node = nodes.get(name)
        if node is None:
            # Not connected. Flower does not always report this as an error.
            item.was_away = True
            item.lost_at = item.lost_at or now
            continue
        if item.message_ids:
            item.lost_at = None
        # After a reconnect the node may be another process, which does not have the earlier request.
        moved = node != item.node or item.was_away
        undelivered = not item.message_ids and now >= item.resend_at
        if not (moved or undelivered or now >= item.repeat_at):
            continue
        old = item.request.metadata
        message = Message(
            item.request.content, node, old.message_type, ttl=max(1.0, deadline - now), group_id=old.group_id
        )
        (message_id,) = grid.push_messages([message])
        item.mark_sent(node, message_id)

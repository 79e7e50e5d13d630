"""One message for each organization, and its answer: sent again when a relay died on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from server.rounds.roster import Roster, pull_reply

# At first, and then a twentieth of the time that was waited: each look costs the SuperLink milliseconds.
_POLL_SECONDS, _LONGEST_POLL_SECONDS, _POLL_SHARE = 0.05, 0.5, 0.05
# A message that Flower could not deliver is sent again: first after so long, then after twice as long, and so on.
_RESEND_SECONDS = 1.0
# When enough have answered, an organization whose connection was lost is waited for so long.
_RETURN_SECONDS = 30.0
# Who is connected and says nothing for so long is asked again, then after twice as long: a process may have died
# and come back unseen. Asked twice, an organization trains once.
_SILENT_SECONDS = 60.0


@dataclass
class _Waiting:
    """An organization that was asked and has not answered.

    Attributes:
        request: what it is asked.
        node: where the request was sent last.
        identities: message → the node that it was sent to, of those that may still be answered.
        was_away: whether its node was not connected since the request was sent.
        lost_at: when the connection was lost; None while there is one.
        resend_at: when the request may be sent again.
        pause: before it is sent once more.
        again_at: when it is sent again although nothing is known to be lost.
        patience: before that happens once more.
    """

    request: Message
    node: int
    identities: dict[str, int]
    was_away: bool = False
    lost_at: float | None = None
    resend_at: float = 0.0
    pause: float = _RESEND_SECONDS
    again_at: float = field(default_factory=lambda: time.monotonic() + _SILENT_SECONDS)
    patience: float = _SILENT_SECONDS

    def lose(self, identity: str) -> None:
        """Flower could not deliver a message, or its answer."""
        del self.identities[identity]
        if not self.identities:
            self.lost_at = time.monotonic()
            self.resend_at = self.lost_at + self.pause
            self.pause *= 2

    def sent(self, node: int, identity: str | None) -> None:
        """The request was sent again. An earlier one may still be answered, by the same node or an earlier one."""
        now = time.monotonic()
        self.identities |= {identity: node} if identity else {}
        self.node, self.was_away, self.lost_at = node, False, None
        self.resend_at = now + self.pause
        self.patience *= 2
        self.again_at = now + self.patience

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
) -> Iterator[tuple[str, Message]]:
    """Send each organization its message and wait for the answers: each is given on as it arrives, and not kept.

    What Flower could not deliver, because a relay died for instance, is sent again, also to the node as which
    an organization comes back: the same request costs nothing twice. (Flower's own `send_and_receive` looks for
    replies every three seconds only, and takes a lost node for an answer.)

    Args:
        grid: reaches the nodes.
        roster: knows the organizations' nodes.
        requests: organization → its message.
        timeout: seconds to wait at most.
        enough: when so many have answered, those whose connection was lost are not waited for to the end.

    Yields:
        An organization and its reply, once for each that answers.
    """
    begin = time.monotonic()
    deadline = begin + timeout
    waiting: dict[str, _Waiting] = {}
    answered = 0
    for name, identity in zip(requests, grid.push_messages(list(requests.values())), strict=True):
        # Flower gives no id for a message that it cannot take, as to a node that has just left.
        node = requests[name].metadata.dst_node_id
        waiting[name] = _Waiting(requests[name], node, {identity: node} if identity else {})
    while waiting and time.monotonic() < deadline:
        arrived = False
        for name, item in list(waiting.items()):
            reply = _pull(grid, item)
            if reply is None:
                continue
            arrived = True
            answered += 1
            del waiting[name]
            yield name, reply
        if not arrived:
            roster.look()
            _resend(grid, roster, waiting, deadline)
            if answered >= enough and all(item.is_gone for item in waiting.values()):
                break
            time.sleep(max(_POLL_SECONDS, min(_LONGEST_POLL_SECONDS, _POLL_SHARE * (time.monotonic() - begin))))


def _pull(grid: Grid, item: _Waiting) -> Message | None:
    """The answer of an organization, if it has arrived."""
    for identity, node in list(item.identities.items()):
        reply = pull_reply(grid, identity, node)
        if reply is not None and not reply.has_error():
            return reply
        if reply is not None:
            item.lose(identity)
    return None


def _resend(grid: Grid, roster: Roster, waiting: dict[str, _Waiting], deadline: float) -> None:
    now = time.monotonic()
    nodes = roster.nodes
    for name, item in waiting.items():
        node = nodes.get(name)
        if node is None:
            # Not connected now. Flower does not always say so by an error.
            item.was_away = True
            item.lost_at = item.lost_at or now
            continue
        if item.identities:
            item.lost_at = None
        # A node that was away may be another process by now, which knows nothing of what the earlier one received.
        elsewhere = node != item.node or item.was_away
        undelivered = not item.identities and now >= item.resend_at
        if not (elsewhere or undelivered or now >= item.again_at):
            continue
        old = item.request.metadata
        message = Message(
            item.request.content, node, old.message_type, ttl=max(1.0, deadline - now), group_id=old.group_id
        )
        (identity,) = grid.push_messages([message])
        item.sent(node, identity)

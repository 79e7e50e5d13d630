"""One message for each organization, and its answer: sent again when a relay died on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from server.roster import Roster, pull_reply

_POLL_SECONDS = 0.05
# A message that Flower could not deliver is sent again: first after so long, then after twice as long, and so on.
_RESEND_SECONDS = 1.0
# When enough have answered, an organization whose connection was lost is waited for so long.
_RETURN_SECONDS = 30.0


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

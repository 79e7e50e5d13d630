"""The participating organizations and their current nodes. A restarted relay returns as a new node."""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import Refused, SottoError
from common.flower import codec
from common.protocol.protocol import Description

# Delay before an unidentified node is asked again.
_ASK_AGAIN_SECONDS = 5.0
# When another node claims a name, how long its current node has to prove that it is alive.
_CHALLENGE_SECONDS = 10.0
_REFRESH_SECONDS = 0.5


class Roster:
    """The organizations of a run, by name.

    Args:
        grid: connected to the nodes.
        registered: returns the organization of a node, None for an unregistered node. Without it, every node
            participates, under the name in its description.

    Attributes:
        descriptions: of every organization that has been connected.
        unidentified: node → why it has no valid description.
    """

    def __init__(self, grid: Grid, registered: Callable[[int], str | None] | None = None) -> None:
        self._grid = grid
        self._registered = registered
        self.descriptions: dict[str, Description] = {}
        self.unidentified: dict[int, str] = {}
        self._online: set[int] = set()
        self._nodes: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._claims: dict[str, tuple[int, float]] = {}
        self._ask_at: dict[int, float] = {}
        self._refreshed_at = -_REFRESH_SECONDS

    @property
    def nodes(self) -> dict[str, int]:
        """Organization → its currently connected node."""
        return {name: node for name, node in sorted(self._nodes.items()) if node in self._online}

    def name_of(self, node: int) -> str:
        """Return the organization that has or had this node."""
        return self._names[node]

    @property
    def all_identified(self) -> bool:
        """Whether every connected node is identified."""
        return self._online <= set(self._nodes.values()) and not self._claims

    def refresh(self) -> None:
        """Update the connected nodes, and identify new ones. Does not block.

        Raises:
            SottoError: two connected nodes claim the same name.
        """
        now = time.monotonic()
        if now - self._refreshed_at >= _REFRESH_SECONDS:
            self._refreshed_at = now
            self._online = {node for node in self._grid.get_node_ids() if self._may_participate(node)}
            claimants = {node for node, _ in self._claims.values()}
            known = {*self._nodes.values(), *self._asked.values(), *claimants}
            new = [node for node in sorted(self._online - known) if self._ask_at.get(node, 0.0) <= now]
            self._ask(new)
        self._collect_descriptions()
        self._resolve_claims()

    def _may_participate(self, node: int) -> bool:
        return self._registered is None or self._registered(node) is not None

    def _ask(self, nodes: list[int]) -> None:
        if not nodes:
            return
        now = time.monotonic()
        queries = [Message(codec.pack_query(), node, codec.DESCRIBE, ttl=60.0) for node in nodes]
        for node, message_id in zip(nodes, self._grid.push_messages(queries), strict=True):
            self._ask_at[node] = now + _ASK_AGAIN_SECONDS
            if message_id:
                self._asked[message_id] = node

    def _collect_descriptions(self) -> None:
        for message_id, node in list(self._asked.items()):
            reply = pull_reply(self._grid, message_id, node)
            if reply is None:
                continue
            del self._asked[message_id]
            self._ask_at[node] = time.monotonic() + _ASK_AGAIN_SECONDS
            try:
                if reply.has_error():
                    raise Refused("training-failed", f"Flower error {reply.error.code}")
                self._identify(node, codec.unpack_description(reply.content))
            except (Refused, codec.MessageError) as error:
                self.unidentified[node] = str(error)

    def _identify(self, node: int, description: Description) -> None:
        registered = description.organization if self._registered is None else self._registered(node)
        if registered != description.organization:
            self.unidentified[node] = (
                f"it is registered as {registered!r} and describes itself as {description.organization!r}"
            )
            return
        self.unidentified.pop(node, None)
        current = self._nodes.get(description.organization)
        if current is None or current == node or current not in self._online:
            claim = self._claims.pop(description.organization, None)
            if claim is not None and claim[0] != node and claim[0] in self._online:
                # The previous node of the name is alive as well.
                raise SottoError(
                    f"two organizations have the name {description.organization!r}; each needs its own"
                )
            self._nodes[description.organization] = node
            self._names[node] = description.organization
            self.descriptions[description.organization] = description
            return
        if description.organization not in self._claims:
            # One claim at a time: another claimant is asked again later, when this claim is resolved.
            self._claims[description.organization] = node, time.monotonic() + _CHALLENGE_SECONDS
            self._ask([current])

    def _resolve_claims(self) -> None:
        """Assign a claimed name to the claimant if its current node is disconnected or does not answer in time."""
        for name, (node, deadline) in list(self._claims.items()):
            if node not in self._online:
                del self._claims[name]
            elif self._nodes[name] not in self._online or time.monotonic() >= deadline:
                self._nodes[name] = node
                self._names[node] = name
                del self._claims[name]


def pull_reply(grid: Grid, message_id: str, node: int) -> Message | None:
    """Return the reply to a message that was sent to a node, if it has arrived.

    A sender can write anything into its reply's metadata. Replies are pulled one by one and attributed to the node
    that was asked, so that no organization can answer in another's name.
    """
    for reply in grid.pull_messages([message_id]):
        reply.metadata.__dict__["_src_node_id"] = node
        return reply
    return None

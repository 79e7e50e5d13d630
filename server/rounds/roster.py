"""Who takes part, and behind which node they are now. A relay that was restarted comes back as another node."""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import Refused, SottoError
from common.flower import codec
from common.protocol.protocol import Description

# A node that does not say who it is, is asked again after so long.
_ASK_AGAIN_SECONDS = 5.0
# How long the earlier node of a name has to show that it is alive when another one claims the name.
_CHALLENGE_SECONDS = 10.0
_LOOK_SECONDS = 0.5


class Roster:
    """The organizations of a run, by name.

    Args:
        grid: reaches their nodes.
        registered: the organization that a node is registered for, None for a node of nobody. Without it, every
            node takes part, under the name that it gives.

    Attributes:
        described: every organization that ever said who it is.
        silent: node → why it does not say who it is.
    """

    def __init__(self, grid: Grid, registered: Callable[[int], str | None] | None = None) -> None:
        self._grid = grid
        self._registered = registered
        self.described: dict[str, Description] = {}
        self.silent: dict[int, str] = {}
        self._online: set[int] = set()
        self._nodes: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._claims: dict[str, tuple[int, float]] = {}
        self._ask_at: dict[int, float] = {}
        self._looked = -_LOOK_SECONDS

    @property
    def nodes(self) -> dict[str, int]:
        """Organization → the node that is connected for it now."""
        return {name: node for name, node in sorted(self._nodes.items()) if node in self._online}

    def name_of(self, node: int) -> str:
        """The organization that is or was behind a node."""
        return self._names[node]

    @property
    def settled(self) -> bool:
        """Whether every connected node has said who it is."""
        return self._online <= set(self._nodes.values()) and not self._claims

    def look(self) -> None:
        """See who is connected, ask who is new, and hear what they say. Does not wait.

        Raises:
            SottoError: two living nodes have one name.
        """
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._online = {node for node in self._grid.get_node_ids() if self._may_take_part(node)}
            claimants = {node for node, _ in self._claims.values()}
            known = {*self._nodes.values(), *self._asked.values(), *claimants}
            new = [node for node in sorted(self._online - known) if self._ask_at.get(node, 0.0) <= now]
            self._ask(new)
        self._hear()
        self._decide_claims()

    def _may_take_part(self, node: int) -> bool:
        return self._registered is None or self._registered(node) is not None

    def _ask(self, nodes: list[int]) -> None:
        if not nodes:
            return
        now = time.monotonic()
        queries = [Message(codec.pack_query(), node, codec.DESCRIBE, ttl=60.0) for node in nodes]
        for node, identity in zip(nodes, self._grid.push_messages(queries), strict=True):
            self._ask_at[node] = now + _ASK_AGAIN_SECONDS
            if identity:
                self._asked[identity] = node

    def _hear(self) -> None:
        for identity, node in list(self._asked.items()):
            reply = pull_reply(self._grid, identity, node)
            if reply is None:
                continue
            del self._asked[identity]
            self._ask_at[node] = time.monotonic() + _ASK_AGAIN_SECONDS
            try:
                if reply.has_error():
                    raise Refused("training-failed", f"Flower error {reply.error.code}")
                self._note(node, codec.unpack_description(reply.content))
            except (Refused, codec.MessageError) as error:
                self.silent[node] = str(error)

    def _note(self, node: int, said: Description) -> None:
        own = said.organization if self._registered is None else self._registered(node)
        if own != said.organization:
            self.silent[node] = f"it is registered for {own!r} and says that it is {said.organization!r}"
            return
        self.silent.pop(node, None)
        earlier = self._nodes.get(said.organization)
        if earlier is None or earlier == node or earlier not in self._online:
            claim = self._claims.pop(said.organization, None)
            if claim is not None and claim[0] != node and claim[0] in self._online:
                # The node that held the name is alive after all.
                raise SottoError(f"two organizations have the name {said.organization!r}; each needs its own")
            self._nodes[said.organization] = node
            self._names[node] = said.organization
            self.described[said.organization] = said
            return
        if said.organization not in self._claims:
            # One claim at a time: whoever comes second is asked again, and claims it from the one who has it then.
            self._claims[said.organization] = node, time.monotonic() + _CHALLENGE_SECONDS
            self._ask([earlier])

    def _decide_claims(self) -> None:
        """A name whose earlier node is gone, or stays silent, goes to the node that claims it."""
        for name, (node, deadline) in list(self._claims.items()):
            if node not in self._online:
                del self._claims[name]
            elif self._nodes[name] not in self._online or time.monotonic() >= deadline:
                self._nodes[name] = node
                self._names[node] = name
                del self._claims[name]


def pull_reply(grid: Grid, identity: str, node: int) -> Message | None:
    """The reply to one message that was sent to one node, if it has arrived.

    What a reply says of itself is its sender's to write. Asked for one by one, a reply belongs to the node that
    was asked, so that no organization can answer in another's name.
    """
    for reply in grid.pull_messages([identity]):
        reply.metadata.__dict__["_src_node_id"] = node
        return reply
    return None

"""Nodes that come, go, come back as another, claim a name, stay silent, send garbage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flwr.app import ConfigRecord, Error, Message, RecordDict

from common.flower import codec
from common.protocol.protocol import Description
from server.rounds.roster import Roster
from simulations.local_grid import LocalGrid

Answer = Callable[[Message], Message | None]


class Nodes(LocalGrid):
    """A grid whose nodes are functions: message → reply, or None for silence. Nodes come and go."""

    def __init__(self) -> None:
        super().__init__({})
        self.answers: dict[int, Answer] = {}
        self.sent: list[tuple[int, str]] = []
        self._pending: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.answers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identities = list(super().push_messages(messages))
        for identity in identities:
            message = self._waiting.pop(identity)
            self.sent.append((message.metadata.dst_node_id, message.metadata.message_type))
            self._pending[identity] = message
        # As Flower's grid does, for a node that it does not know.
        return [
            identity if self._pending[identity].metadata.dst_node_id in self.answers else None  # type: ignore[misc]
            for identity in identities
        ]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for identity in message_ids:
            message = self._pending[identity]
            answer = self.answers.get(message.metadata.dst_node_id)
            reply = answer(message) if answer else None
            if reply is not None:
                del self._pending[identity]
                found.append(reply)
        return found

    def asked(self, node: int, kind: str) -> int:
        return self.sent.count((node, kind))


def organization(name: str, sender: int | None = None) -> Answer:
    """An honest organization, unless it claims that its replies come from another node."""

    def answer(message: Message) -> Message:
        if message.metadata.message_type == codec.DESCRIBE:
            content = codec.pack_description(Description(name, "example", 100))
        else:
            content = RecordDict({"sotto": ConfigRecord({"by": name})})
        reply = Message(content, reply_to=message)
        if sender is not None:
            reply.metadata.__dict__["_src_node_id"] = sender
        return reply

    return answer


def silence(message: Message) -> None:
    return None


def failing(message: Message) -> Message:
    return Message(Error(code=0, reason="node is gone"), reply_to=message)


def garbage(content: RecordDict) -> Answer:
    return lambda message: Message(content, reply_to=message)


def flaky(times: int, then: Answer) -> Answer:
    """Flower cannot deliver the first messages other than descriptions."""
    left = [times]

    def answer(message: Message) -> Message | None:
        if message.metadata.message_type != codec.DESCRIBE and left[0]:
            left[0] -= 1
            return failing(message)
        return then(message)

    return answer


def look(roster: Roster, seconds: float = 0.0) -> dict[str, int]:
    deadline = time.monotonic() + seconds
    roster.refresh()
    while time.monotonic() < deadline:
        roster.refresh()
        time.sleep(0.01)
    return roster.nodes

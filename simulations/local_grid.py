"""A Flower grid whose nodes are objects in this process: no server, no sockets, no Ray."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.relay.client_app import answer
from common.protocol.protocol import Participant

_RUN_ID = 1


class LocalGrid(Grid):
    """Passes messages to participants, one at a time, when their replies are pulled.

    Args:
        participants: node id → its participant.
    """

    def __init__(self, participants: Mapping[int, Participant]) -> None:
        # Outside a Flower process the task identity is not set, and a message cannot be created without it.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, 1
        self._participants = dict(participants)
        self._waiting: dict[str, Message] = {}
        self._one_at_a_time = threading.Lock()
        self._run = Run.create_empty(run_id=_RUN_ID)

    def set_run(self, run: Run) -> None:
        """Set the Flower run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The Flower run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The node ids of all participants."""
        return list(self._participants)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages."""
        ids = []
        for message in messages:
            identity = uuid.uuid4().hex
            # Flower's own grids set the id in the same way: there is no public setter.
            message.metadata.__dict__["_message_id"] = identity
            self._waiting[identity] = message
            ids.append(identity)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Process the first of these messages and return its reply."""
        for identity in message_ids:
            message = self._waiting.pop(identity, None)
            if message is not None:
                with self._one_at_a_time:
                    reply = answer(message, self._participants[message.metadata.dst_node_id])
                reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
                return [reply]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        """Push messages and pull all replies."""
        waiting = list(self.push_messages(messages))
        return [reply for identity in waiting for reply in self.pull_messages([identity])]

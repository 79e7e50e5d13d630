"""Flower's grid, asked in the background: a reply that never arrives whole holds up nobody else's."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from google.protobuf.message import DecodeError

# A reply that is there takes less. One that is still arriving is looked for again at the next call.
_WAIT_SECONDS = 0.05
_THREADS = 256
# What Flower raises for the parts of a reply that fit nowhere. A lost connection is none of these.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, DecodeError)

_log = logging.getLogger(__name__)


class BackgroundGrid(Grid):
    """Passes everything on; pulls each reply in a thread of its own.

    Flower waits inside `pull_messages` for the parts of a reply that has begun to arrive: for three minutes if its
    sender died in the middle, and no other organization is heard meanwhile.

    Args:
        grid: the one that reaches the organizations.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pull")
        self._pulls: dict[str, Future[list[Message]]] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages that have arrived whole."""
        return [reply for identity in message_ids for reply in self._pull(identity)]

    def _pull(self, identity: str) -> list[Message]:
        if identity not in self._pulls:
            self._pulls[identity] = self._threads.submit(self._pull_one, identity)
        done, _ = wait([self._pulls[identity]], _WAIT_SECONDS)
        return self._pulls.pop(identity).result() if done else []

    def _pull_one(self, identity: str) -> list[Message]:
        """The reply, if it is there. One that cannot be read is empty: it ends its sender's part, not the run."""
        try:
            replies = list(self._grid.pull_messages([identity]))
            if all(reply.has_error() or isinstance(reply.content, RecordDict) for reply in replies):
                return replies
        except _UNREADABLE as error:
            _log.warning("a reply cannot be read: %s", type(error).__name__)
        return [Message(RecordDict(), 0, "query")]

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The connected nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        return self._grid.push_messages(messages)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for the replies; Flower's own, which waits for each."""
        return self._grid.send_and_receive(messages, timeout=timeout)

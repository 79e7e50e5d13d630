"""Flower's grid with replies pulled in background threads: an incomplete reply does not block the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from google.protobuf.message import DecodeError

# Enough for a reply that has arrived. One that is still arriving is pulled at a later call.
_WAIT_SECONDS = 0.05
_THREADS = 256
# Raised by Flower for a malformed reply. Errors of the connection are not among them.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, DecodeError)

_log = logging.getLogger(__name__)


class BackgroundGrid(Grid):
    """Forwards all calls to another grid, and pulls each reply in its own thread.

    Flower's `pull_messages` blocks until a reply that has begun to arrive is complete: for three minutes if its
    sender has died, during which no other reply would be received.

    Args:
        grid: connected to the organizations.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pull")
        self._pulls: dict[str, Future[list[Message]]] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that have arrived completely."""
        return [reply for message_id in message_ids for reply in self._pull(message_id)]

    def _pull(self, message_id: str) -> list[Message]:
        if message_id not in self._pulls:
            self._pulls[message_id] = self._threads.submit(self._pull_one, message_id)
        done, _ = wait([self._pulls[message_id]], _WAIT_SECONDS)
        return self._pulls.pop(message_id).result() if done else []

    def _pull_one(self, message_id: str) -> list[Message]:
        """Return the reply, if it has arrived. A malformed reply becomes an empty one, which is refused later."""
        try:
            replies = list(self._grid.pull_messages([message_id]))
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
        """Create a message to a node."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        return self._grid.push_messages(messages)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for the replies, as Flower does."""
        return self._grid.send_and_receive(messages, timeout=timeout)

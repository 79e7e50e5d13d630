"""Long polling: requests for messages are held until there may be a message, so that nodes need not poll.

Holding only delays a request; it is forwarded unchanged, and the SuperLink decides which messages it returns. The
SuperLink marks returned messages as delivered, so a request must not be forwarded after its sender disconnected.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any

from common.system.wakeup import Wakeup
from server.superlink.database import POLL_SECONDS, Database

# Flower's client gives up after 30 seconds.
_LONGEST_SECONDS = 20.0
# Delay of a request when the database cannot be read: nodes would repeat it immediately.
_UNREADABLE_SECONDS = 0.25

_log = logging.getLogger(__name__)


class Outcome(Enum):
    """Why the hold of a request ends."""

    FORWARD = "forward"
    """There may be a message, the maximum time is over, or the sender lost its access."""
    DISCONNECTED = "gone"
    """The sender has disconnected."""
    REPLACED = "another-pull"
    """The node sent another request: this one is from a broken connection or a dead process."""
    STOPPING = "not-ready"
    """The gateway stops."""


@dataclass(eq=False)
class _HeldRequest:
    is_allowed: Callable[[], bool]
    outcome: asyncio.Future[Outcome]
    since: float

    def end(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class HeldRequests:
    """The held requests, at most one per node; they share one query of the database.

    Args:
        database: the SuperLink's, with pending messages.
        wakeup: signalled when the database changes.
        seconds: maximum time to hold a request.
    """

    def __init__(self, database: Database, wakeup: Wakeup, seconds: float = _LONGEST_SECONDS) -> None:
        self._database = database
        self._wakeup = wakeup
        self._seconds = seconds
        self._held: dict[int, _HeldRequest] = {}
        # Node → change of the database at which its request was last released. Messages that are still pending at
        # the same change were not returned to it.
        self._released_at: dict[int, int] = {}
        self._poller: asyncio.Task[None] | None = None
        self._unreadable = False
        self._stopping = False

    async def hold(
        self, node: int, is_allowed: Callable[[], bool], disconnected: Callable[[], Coroutine[Any, Any, None]]
    ) -> Outcome:
        """Hold a request until there is a reason to release it.

        Args:
            node: the sender.
            is_allowed: returns whether the sender still has access.
            disconnected: returns when the sender has disconnected.
        """
        if self._stopping:
            return Outcome.STOPPING
        if node in self._held:
            self._held[node].end(Outcome.REPLACED)
        loop = asyncio.get_running_loop()
        held = self._held[node] = _HeldRequest(is_allowed, loop.create_future(), loop.time())
        disconnect = loop.create_task(disconnected())
        ends: set[asyncio.Future[Any]] = {held.outcome, disconnect}
        try:
            self._start_polling()
            await asyncio.wait(ends, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if disconnect.done():
                self.forget(node)
                return Outcome.DISCONNECTED
            return held.outcome.result() if held.outcome.done() else Outcome.FORWARD
        finally:
            disconnect.cancel()
            if self._held.get(node) is held:
                del self._held[node]

    def _start_polling(self) -> None:
        loop = asyncio.get_running_loop()
        if self._poller is None:
            loop.add_reader(self._wakeup, self._clear)
        if self._poller is None or self._poller.done():
            self._poller = loop.create_task(self._poll())
        self._release()

    def forget(self, node: int) -> None:
        """Release a node's next request even if the database did not change: this one did not get its messages."""
        self._released_at.pop(node, None)

    def stop(self) -> None:
        """Release all requests, and hold no further ones."""
        self._stopping = True
        for held in self._held.values():
            held.end(Outcome.STOPPING)

    def _clear(self) -> None:
        self._wakeup.clear()
        if self._held:
            self._release()

    async def _poll(self) -> None:
        while self._held:
            await asyncio.sleep(POLL_SECONDS)
            self._release()
            for held in self._held.values():
                if not held.is_allowed():
                    held.end(Outcome.FORWARD)

    def _release(self) -> None:
        """Release the requests of nodes that may have a message."""
        try:
            nodes = self._database.pending()
        except sqlite3.Error as error:
            if not self._unreadable:
                _log.warning(
                    "the SuperLink's database cannot be read, nodes poll the SuperLink instead: %s", error
                )
            self._unreadable = True
            self._release_all_soon()
            return
        self._unreadable = False
        changes = self._database.changes
        for node in nodes & self._held.keys():
            if self._released_at.get(node) != changes:
                self._released_at[node] = changes
                self._held[node].end(Outcome.FORWARD)

    def _release_all_soon(self) -> None:
        now = asyncio.get_running_loop().time()
        for held in self._held.values():
            if now - held.since >= _UNREADABLE_SECONDS:
                held.end(Outcome.FORWARD)

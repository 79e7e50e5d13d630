"""Requests for messages that are kept until there may be a message: a node need not ask again and again.

What is kept is only delayed. Whether there is a message is the SuperLink's to say, to a request that is forwarded
as it came. It takes a message for delivered when it has answered, so a request that nobody waits for any more must
never be forwarded.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any

from common.system.bell import Bell
from server.superlink.database import LOOK_SECONDS, Database

# Flower's client gives up after 30 seconds.
_LONGEST_SECONDS = 20.0
# How long a request is kept when the database cannot be read: a node would ask again at once.
_BLIND_SECONDS = 0.25

_log = logging.getLogger(__name__)


class Outcome(Enum):
    """How a request's wait ends."""

    FORWARD = "forward"
    """There may be a message, or it was kept long enough; or its sender may not enter any more."""
    GONE = "gone"
    """Nobody waits for the answer."""
    REPLACED = "another-pull"
    """The same node asked once more: the older request is of a connection that broke, or of a dead process."""
    ENDING = "not-ready"
    """The gateway ends."""


@dataclass(eq=False)
class _Held:
    may_enter: Callable[[], bool]
    outcome: asyncio.Future[Outcome]
    since: float

    def end(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Holds:
    """The requests that are kept, at most one of each node; they share one look at the database.

    Args:
        database: where the SuperLink's messages wait.
        bell: rings when the database changes.
        seconds: the longest that a request is kept.
    """

    def __init__(self, database: Database, bell: Bell, seconds: float = _LONGEST_SECONDS) -> None:
        self._database = database
        self._bell = bell
        self._seconds = seconds
        self._held: dict[int, _Held] = {}
        # At which change of the database a node was last let through: what is still there then, it does not get.
        self._let_through: dict[int, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self._blind = False
        self._ending = False

    async def hold(
        self, node: int, may_enter: Callable[[], bool], gone: Callable[[], Coroutine[Any, Any, None]]
    ) -> Outcome:
        """Keep a request until there is a reason to end its wait.

        Args:
            node: that asks.
            may_enter: whether the sender may still enter.
            gone: returns when nobody waits for the answer any more.
        """
        if self._ending:
            return Outcome.ENDING
        if node in self._held:
            self._held[node].end(Outcome.REPLACED)
        loop = asyncio.get_running_loop()
        held = self._held[node] = _Held(may_enter, loop.create_future(), loop.time())
        left = loop.create_task(gone())
        ends: set[asyncio.Future[Any]] = {held.outcome, left}
        try:
            self._start_looking()
            await asyncio.wait(ends, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                self.forget(node)
                return Outcome.GONE
            return held.outcome.result() if held.outcome.done() else Outcome.FORWARD
        finally:
            left.cancel()
            if self._held.get(node) is held:
                del self._held[node]

    def _start_looking(self) -> None:
        loop = asyncio.get_running_loop()
        if self._looking is None:
            loop.add_reader(self._bell, self._hear)
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._keep_looking())
        self._look()

    def forget(self, node: int) -> None:
        """Let a node's next request through although nothing changed: this one did not get what is there."""
        self._let_through.pop(node, None)

    def end(self) -> None:
        """Keep nothing any more, now and later."""
        self._ending = True
        for held in self._held.values():
            held.end(Outcome.ENDING)

    def _hear(self) -> None:
        self._bell.hear()
        if self._held:
            self._look()

    async def _keep_looking(self) -> None:
        while self._held:
            await asyncio.sleep(LOOK_SECONDS)
            self._look()
            for held in self._held.values():
                if not held.may_enter():
                    held.end(Outcome.FORWARD)

    def _look(self) -> None:
        """Let those through for whom there may be something."""
        try:
            waiting = self._database.look()
        except sqlite3.Error as error:
            if not self._blind:
                _log.warning("the SuperLink's database cannot be read, nodes ask as often as they like: %s", error)
            self._blind = True
            self._let_through_soon()
            return
        self._blind = False
        changes = self._database.changes
        for node in waiting & self._held.keys():
            if self._let_through.get(node) != changes:
                self._let_through[node] = changes
                self._held[node].end(Outcome.FORWARD)

    def _let_through_soon(self) -> None:
        now = asyncio.get_running_loop().time()
        for held in self._held.values():
            if now - held.since >= _BLIND_SECONDS:
                held.end(Outcome.FORWARD)

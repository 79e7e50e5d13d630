"""The pace of Flower's SuperNode: event-driven instead of fixed polling intervals.

Flower's SuperNode sleeps between two polls: of the server for a message, and of its own state for the relay's
reply. Here the server's gateway holds a request for messages until there is one, and a reply wakes the SuperNode
as soon as it is stored.
"""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Callable

import flwr.supercore.object_store.object_store_factory as objects
import flwr.supernode.nodestate.nodestate_factory as states
import flwr.supernode.start_client_internal as loop
from flwr.app import Message
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from common.system.wakeup import Wakeup

# In place of Flower's 3 seconds after a request that returned no message, if the server does not hold requests:
# the interval after recent activity, and the interval once nothing has arrived for a while.
_ACTIVE_SECONDS, _IDLE_SECONDS = 0.25, 1.0
_IDLE_AFTER_SECONDS = 60.0
# A request that took at least this long was held by the gateway.
_HELD_SECONDS = 1.0
# As Flower's own interval. It bounds only how late the death of a relay is noticed: a reply is noticed at once.
_REPLY_SECONDS = 0.5


class Pace:
    """The pauses of a SuperNode's loop.

    Args:
        clock: a monotonic clock, in seconds.
        pause: sleeps for the given number of seconds.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._arrived = threading.Event()
        self._busy_at = self._woke_at = clock()

    def wake(self) -> None:
        """Wake the loop: a reply or a part of one was stored."""
        self._arrived.set()

    def sleep(self, seconds: float) -> None:
        """Replaces `time.sleep` in Flower's loop.

        Args:
            seconds: how long Flower would sleep: several seconds between two requests to the server, less than one
                second between two polls for the relay's reply.
        """
        if seconds < 1:
            self._arrived.wait(_REPLY_SECONDS)
            self._arrived.clear()
            self._busy_at = self._clock()
        elif self._clock() - self._woke_at < _HELD_SECONDS:
            idle = self._clock() - self._busy_at >= _IDLE_AFTER_SECONDS
            self._pause(_IDLE_SECONDS if idle else _ACTIVE_SECONDS)
        self._woke_at = self._clock()


def patch_sleep(wakeup: Wakeup) -> None:
    """Make Flower's SuperNode, started later in this process, sleep no longer than necessary.

    Args:
        wakeup: signalled when there is a message for the relay.
    """
    pace = Pace()

    class State(InMemoryNodeState):
        def store_message(self, message: Message) -> str | None:
            stored = super().store_message(message)
            if message.metadata.reply_to_message_id:
                pace.wake()
            else:
                # Flower has already created the task that the relay will acquire.
                wakeup.signal()
            return stored

    class Objects(InMemoryObjectStore):
        def put(self, object_id: str, object_content: bytes) -> None:
            super().put(object_id, object_content)
            pace.wake()

    vars(states)["InMemoryNodeState"] = State
    vars(objects)["InMemoryObjectStore"] = Objects
    paced = types.ModuleType("time")
    paced.__dict__.update({**time.__dict__, "sleep": pace.sleep})
    vars(loop)["time"] = paced

"""The pace of Flower's SuperNode: no look that finds nothing, where there is somebody who says when to look.

Flower's SuperNode sleeps between looks: at the server for a message, at its own memory for the relay's reply. The
server's gateway keeps a request for messages until there is one, and the relay's reply is noticed as it is stored.
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

from common.system.bell import Bell

# In place of Flower's 3 seconds after a request that found nothing, where the server does not keep requests. Who
# has waited long for a message can wait longer for the next.
_EAGER_SECONDS, _PATIENT_SECONDS = 0.25, 1.0
_EAGER_FOR_SECONDS = 60.0
# A request that took this long was kept.
_KEPT_SECONDS = 1.0
# In place of half a second. A reply is noticed at once; a relay that died is not.
_REPLY_SECONDS = 0.5


class Pace:
    """The pauses of a SuperNode's loop.

    Args:
        clock: seconds, steadily.
        pause: waits for so many seconds.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._arrived = threading.Event()
        self._busy_at = self._woke_at = clock()

    def arrive(self) -> None:
        """Note that a reply or a part of one was stored."""
        self._arrived.set()

    def sleep(self, seconds: float) -> None:
        """In place of the loop's `time.sleep`.

        Args:
            seconds: that Flower would sleep: some between two requests to the server, less than one between two
                looks for a reply of the relay.
        """
        if seconds < 1:
            self._arrived.wait(_REPLY_SECONDS)
            self._arrived.clear()
            self._busy_at = self._clock()
        elif self._clock() - self._woke_at < _KEPT_SECONDS:
            idle = self._clock() - self._busy_at >= _EAGER_FOR_SECONDS
            self._pause(_PATIENT_SECONDS if idle else _EAGER_SECONDS)
        self._woke_at = self._clock()


def quicken(bell: Bell) -> None:
    """Let Flower's SuperNode, started afterwards in this process, sleep no longer than it must.

    Args:
        bell: is rung for the relay when there is a message for it.
    """
    pace = Pace()

    class State(InMemoryNodeState):
        def store_message(self, message: Message) -> str | None:
            stored = super().store_message(message)
            if message.metadata.reply_to_message_id:
                pace.arrive()
            else:
                # Its task is there already.
                bell.ring()
            return stored

    class Objects(InMemoryObjectStore):
        def put(self, object_id: str, object_content: bytes) -> None:
            super().put(object_id, object_content)
            pace.arrive()

    vars(states)["InMemoryNodeState"] = State
    vars(objects)["InMemoryObjectStore"] = Objects
    paced = types.ModuleType("time")
    paced.__dict__.update({**time.__dict__, "sleep": pace.sleep})
    vars(loop)["time"] = paced

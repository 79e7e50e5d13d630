"""A wake-up signal between two processes on one machine: one process signals, another waits. It carries no data.

It is a named pipe in a private folder. Both ends open it for reading and writing, so either process can die and
restart: signalling never blocks, and a signal that is sent while nobody waits is kept for the next wait.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path

_CHUNK_BYTES = 2**16


class Wakeup:
    """One end of a wake-up pipe.

    Args:
        path: the pipe that `create` made.
    """

    def __init__(self, path: Path) -> None:
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    @classmethod
    def create(cls, path: Path) -> Wakeup:
        """Create a pipe that only this user can open; it replaces an earlier one."""
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        return cls(path)

    def fileno(self) -> int:
        """The file descriptor, for an event loop or `select`; call `clear` when it is readable."""
        return self._pipe

    def signal(self) -> None:
        """Wake the process that waits, or the next one that does. Never blocks."""
        # A full pipe holds signals that were not cleared yet: another one would add nothing.
        with suppress(BlockingIOError):
            os.write(self._pipe, b"\0")

    def clear(self) -> None:
        """Discard the signals that are pending."""
        with suppress(BlockingIOError):
            os.read(self._pipe, _CHUNK_BYTES)

    def wait(self, seconds: float) -> bool:
        """Wait for a signal, and clear all that are pending.

        Args:
            seconds: the longest time to wait.

        Returns:
            Whether there was a signal.
        """
        ready, _, _ = select.select([self._pipe], [], [], seconds)
        if ready:
            self.clear()
        return bool(ready)

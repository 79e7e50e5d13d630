"""A bell between processes of this machine: one rings, another waits for it. It carries nothing else.

It is a pipe with a name in a private folder. Both ends open it for reading and writing, so that either process may
die and come back: who rings is never held up, and a bell that rang while nobody waited is heard later.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path

_SCRAP = 2**16


class Bell:
    """One end of a bell.

    Args:
        path: where `hang` put it.
    """

    def __init__(self, path: Path) -> None:
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    @classmethod
    def hang(cls, path: Path) -> Bell:
        """Put up a bell that only this user can ring or hear, in place of an earlier one."""
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        return cls(path)

    def fileno(self) -> int:
        """What to wait for together with other things; `hear` it then."""
        return self._pipe

    def ring(self) -> None:
        """Wake whoever waits, or waits next."""
        # A pipe that is full has been rung for long.
        with suppress(BlockingIOError):
            os.write(self._pipe, b"\0")

    def hear(self) -> None:
        """Take note of all that it rang so far."""
        with suppress(BlockingIOError):
            os.read(self._pipe, _SCRAP)

    def wait(self, seconds: float) -> bool:
        """Wait until it rings, once for all that it rang before.

        Args:
            seconds: to wait at most.

        Returns:
            Whether it rang.
        """
        rang, _, _ = select.select([self._pipe], [], [], seconds)
        if rang:
            self.hear()
        return bool(rang)

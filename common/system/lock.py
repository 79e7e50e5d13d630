"""One process at a time: a lock that the system itself releases when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Held(Exception):
    """Another process holds the lock.

    Attributes:
        holder: its process id, as far as it is known.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder


@contextmanager
def exclusive(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file or socket as long as the context lasts; it lies beside it, with `.lock` added.

    Args:
        path: of what the lock is for; it need not exist.
        patience: seconds to wait for it.

    Raises:
        Held: another process has it.
    """
    lock = _beside(path)
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(handle, time.monotonic() + patience)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        # The file stays: whoever waits for the name would otherwise lock a file that is gone.
        os.close(handle)


def _beside(path: Path) -> Path:
    # A link is another name of the same thing, and has the same lock.
    real = path.resolve()
    return real.with_name(real.name + ".lock")


def _take(handle: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Held(os.pread(handle, 20, 0).decode(errors="replace") or "unknown") from None
            time.sleep(0.02)
        else:
            return


def is_held(path: Path) -> bool:
    """Whether some process holds the lock now. Nothing is made or written."""
    try:
        handle = os.open(_beside(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: of two that only look, neither takes the other for a holder.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)

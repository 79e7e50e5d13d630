"""Mutual exclusion between processes: the system releases the lock when its holder dies, for any reason."""

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
        holder: the id of that process; "unknown" if it cannot be read.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder


@contextmanager
def exclusive(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file or socket during the context. The lock is a file beside it, with the suffix `.lock`.

    Args:
        path: the file or socket to lock; it need not exist.
        patience: seconds to wait for the lock.

    Raises:
        Held: another process holds it.
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
        # The file is not removed: a waiting process would otherwise lock a file that no longer has a name.
        os.close(handle)


def _beside(path: Path) -> Path:
    # A symbolic link and its target have the same lock.
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
    """Whether a process holds the lock now. Creates and writes nothing."""
    try:
        handle = os.open(_beside(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two processes that only test the lock do not see each other as its holder.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)

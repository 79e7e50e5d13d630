"""Waiting in tests: for something to become so, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

LONG = 240.0
"""Seconds. No test measures time: this only keeps a broken program from holding up the others."""


def wait_until(true: Callable[[], bool], what: str, seconds: float = LONG) -> None:
    """Wait for something, or fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)

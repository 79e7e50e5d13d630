"""The moments at which vaults are killed."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.client.vault.kills.audit import Attempt
from tests.waiting import LONG

# Delays are drawn from 0 to slightly more than an attempt takes.
BEYOND = 1.15


ANY, BEFORE, AFTER, SETTLING, ANSWER = (
    "at any moment",
    "before the charge",
    "after the charge",
    "at the settlement",
    "at the answer",
)


class Victim(Protocol):
    """A vault that was asked one thing.

    Attributes:
        began: when.
        journal: exists while its ledger is written.
    """

    began: float
    journal: Path

    def has_charged(self) -> bool:
        """Whether it can be seen that it has charged, or answered."""

    def has_answered(self) -> bool:
        """Whether anything of its answer came."""

    def kill(self) -> Attempt:
        """SIGKILL; what was seen of it."""


class Pace:
    """How long attempts take at present, for the machine may be busy.

    It is measured until they can be seen to have charged, from there until they settle, and from there until they
    are answered.
    """

    def __init__(self) -> None:
        self._measured: deque[tuple[float, float, float]] = deque(maxlen=5)

    def choose_aim(self, charged: bool, chance: random.Random) -> str:
        """Half of the kills are aimed at nothing, the others at what that hits seldom; the first one measures."""
        if not self._measured:
            return ANSWER
        if chance.random() < 0.5:
            return ANY
        return chance.choice((AFTER, SETTLING, ANSWER) if charged else (BEFORE, BEFORE, AFTER, ANSWER))

    def kill(self, victim: Victim, aim: str, chance: random.Random) -> Attempt:
        """Kill a vault at a moment of a kind."""
        try:
            times = [victim.began]
            if aim not in (ANY, BEFORE):
                spin(victim.has_charged)
                times.append(time.perf_counter())
            if aim in (SETTLING, ANSWER):
                spin(lambda: victim.journal.exists() or victim.has_answered())
                times.append(time.perf_counter())
            if aim == ANSWER:
                spin(victim.has_answered)
                times.append(time.perf_counter())
            else:
                time.sleep(max(0.0, times[-1] + chance.uniform(0, self._longest(aim)) - time.perf_counter()))
        finally:
            attempt = victim.kill()
        if aim == ANSWER and attempt.trained:
            before, training, settling = (there - here for here, there in itertools.pairwise(times))
            self._measured.append((before, training, settling))
        return attempt

    def _longest(self, aim: str) -> float:
        before, training, settling = map(statistics.median, zip(*self._measured, strict=True))
        longest: dict[str, float] = {
            ANY: BEYOND * (before + training + settling),
            BEFORE: before,
            AFTER: BEYOND * (training + settling),
            SETTLING: BEYOND * settling,
        }
        return longest[aim]


def spin(true: Callable[[], bool]) -> None:
    """Wait for something that may pass quickly."""
    deadline = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)

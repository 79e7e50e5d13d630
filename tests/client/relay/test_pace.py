"""How long a SuperNode sleeps: not at all if the server holds its requests, briefly if it has to poll."""

from __future__ import annotations

import threading

import pytest

from client.relay.pace import Pace


class Time:
    """A clock that advances only by sleeping and by requests."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def pace(time: Time) -> Pace:
    return Pace(lambda: time.now, time.sleep)


def request(time: Time, pace: Pace, seconds: float) -> None:
    """A request that takes `seconds` and returns no message, followed by Flower's sleep."""
    time.now += seconds
    pace.sleep(3)


def test_after_a_request_that_was_kept_there_is_no_sleep(time: Time, pace: Pace) -> None:
    for _ in range(5):
        request(time, pace, 20.0)
    assert time.slept == []


def test_where_no_request_is_kept_it_is_asked_often_first_and_less_often_later(time: Time, pace: Pace) -> None:
    while time.now < 1059:
        request(time, pace, 0.01)
    assert set(time.slept) == {0.25}
    time.slept.clear()
    while time.now < 1120:
        request(time, pace, 0.01)
    assert time.slept[-1] == 1.0
    assert len(time.slept) < 70
    pace.wake()
    pace.sleep(0.5)
    time.slept.clear()
    request(time, pace, 0.01)
    assert time.slept == [0.25], "a message has just been answered"


def test_a_reply_ends_the_wait_for_it(pace: Pace) -> None:
    waiting = threading.Thread(target=lambda: [pace.sleep(0.5) for _ in range(20)])
    waiting.start()
    while waiting.is_alive():
        pace.wake()
        waiting.join(0.001)

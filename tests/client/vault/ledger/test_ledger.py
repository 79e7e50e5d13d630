"""The ledger: charged before training, settled with the release, never changed or forgotten."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.vault.ledger.chain import LedgerError
from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from common.errors import InputError, Refused
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap


def reservation(
    run: str, epsilon: float = 1.0, delta: float = 1e-6, plan: str = "p", rounds: int = 3
) -> Reservation:
    return Reservation(run, plan, "fingerprint", Mechanism(0.1, 1.5, 12), epsilon, delta, rounds)


CAP = Cap(8.0, 1e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def opened(path: Path, cap: Cap = CAP) -> Ledger:
    ledger = Ledger(path, "st-mary", "example")
    ledger.cap.set_or_lower(cap)
    return ledger


def spent(ledger: Ledger) -> list[tuple[float, float]]:
    return [(cost.epsilon, cost.delta) for cost in ledger.spent()]


def test_a_reservation_is_kept_across_restarts(path: Path) -> None:
    opened(path).reserve(reservation("a"))
    assert opened(path).find("a") == reservation("a")
    assert opened(path).find("b") is None
    assert spent(opened(path)) == [(1.0, 1e-6)]


def test_the_same_reservation_again_costs_nothing(path: Path) -> None:
    ledger = opened(path)
    ledger.reserve(reservation("a", epsilon=8.0))
    ledger.reserve(reservation("a", epsilon=8.0))
    assert spent(ledger) == [(8.0, 1e-6)]


def test_a_run_keeps_its_plan(path: Path) -> None:
    ledger = opened(path)
    ledger.reserve(reservation("a"))
    with pytest.raises(Refused, match="plan-changed"):
        ledger.reserve(reservation("a", plan="another"))


def test_the_cap_is_reached_exactly_and_never_passed(path: Path) -> None:
    ledger = opened(path, Cap(1.0, 1e-6))
    for number in range(10):
        ledger.reserve(reservation(f"run-{number}", epsilon=0.1, delta=1e-7))
    with pytest.raises(Refused, match="budget"):
        ledger.reserve(reservation("one more", epsilon=0.0001, delta=1e-12))
    assert len(spent(ledger)) == 10


def test_delta_is_capped_too(path: Path) -> None:
    ledger = opened(path)
    ledger.reserve(reservation("a", epsilon=0.1, delta=9e-6))
    with pytest.raises(Refused, match="budget"):
        ledger.reserve(reservation("b", epsilon=0.1, delta=2e-6))


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_whatever_is_asked_the_sum_stays_within_the_cap(costs: list[float]) -> None:
    ledger = opened(Path(":memory:"))
    for number, cost in enumerate(costs):
        before = len(spent(ledger))
        try:
            ledger.reserve(reservation(f"run-{number}", epsilon=cost))
        except Refused:
            assert len(spent(ledger)) == before
    assert sum(cost for cost, _ in spent(ledger)) <= 8.0 + 1e-9


def test_a_settled_round_is_answered_from_the_ledger_for_the_same_request_only(path: Path) -> None:
    ledger = opened(path)
    ledger.reserve(reservation("a"))
    assert ledger.released("a", 1, "digest") is None
    ledger.settle("a", 1, "digest", 4, b"noised")
    assert opened(path).released("a", 1, "digest") == b"noised"
    assert ledger.settled_rounds("a") == [1]
    with pytest.raises(Refused, match="round-conflict"):
        ledger.released("a", 1, "another digest")


def test_a_round_is_settled_once_and_only_in_a_reserved_run(path: Path) -> None:
    ledger = opened(path)
    ledger.reserve(reservation("a"))
    ledger.settle("a", 1, "digest", 4, b"noised")
    with pytest.raises(sqlite3.IntegrityError):
        ledger.settle("a", 1, "digest", 4, b"noised again")
    with pytest.raises(LedgerError, match="never reserved"):
        ledger.settle("never reserved", 1, "digest", 4, b"noised")
    assert ledger.released("a", 1, "digest") == b"noised"


@pytest.mark.parametrize(
    "statement", ["UPDATE chain SET entry = '{}'", "DELETE FROM chain", "DELETE FROM releases"]
)
def test_nothing_is_changed_or_removed(path: Path, statement: str) -> None:
    ledger = opened(path)
    ledger.reserve(reservation("a"))
    ledger.settle("a", 1, "digest", 4, b"noised")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), sqlite3.connect(path) as other:
        other.execute(statement)


@pytest.mark.parametrize(("organization", "unit"), [("another", "example"), ("st-mary", "user")])
def test_a_ledger_belongs_to_one_organization_and_unit(path: Path, organization: str, unit: str) -> None:
    opened(path).close()
    with pytest.raises(InputError, match="it should be"):
        Ledger(path, organization, unit)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 30, b"garbage"])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be used as a ledger"):
        opened(path)
    assert path.read_bytes() == content


def _reserve_and_die(path: Path) -> None:
    ledger = opened(path)
    ledger.reserve(reservation("a"))
    ledger._database.rows("BEGIN IMMEDIATE")
    ledger._database.rows("INSERT INTO releases VALUES ('a', 1, 'digest', x'00')")
    os._exit(9)


def test_after_a_crash_the_reservation_stands_and_the_unfinished_round_left_nothing(path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_reserve_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    ledger = opened(path)
    assert spent(ledger) == [(1.0, 1e-6)]
    assert ledger.released("a", 1, "digest") is None
    ledger.settle("a", 1, "digest", 4, b"noised")


def test_two_writers_cannot_overspend_together(path: Path) -> None:
    first, second = opened(path), opened(path)
    first.reserve(reservation("a", epsilon=5.0))
    with pytest.raises(Refused, match="budget"):
        second.reserve(reservation("b", epsilon=5.0))


def in_threads(*tasks: Callable[[], object]) -> list[BaseException]:
    """Run tasks concurrently, with the shortest switch interval; returns the errors they raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> None:
        start.wait()
        try:
            task()
        except Exception as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return errors


def test_threads_of_one_ledger_never_overspend_and_never_see_half_a_change(path: Path) -> None:
    """In a vault one thread trains and others ask for statements; here all threads do both."""
    ledger = opened(path)
    wrong: list[object] = []

    def reserve(name: str) -> None:
        for number in range(10):
            ledger.reserve(reservation(f"{name}-{number}", epsilon=0.5, delta=1e-7))
            ledger.settle(f"{name}-{number}", 1, "digest", 4, name.encode())

    def read() -> None:
        for _ in range(200):
            costs = spent(ledger)
            settled = ledger.settled_rounds("a-0")
            found = ledger.find("a-0")
            if sum(cost for cost, _ in costs) > 8.0 or (settled and found != reservation("a-0", 0.5, 1e-7)):
                wrong.append((costs, found, settled))

    errors = in_threads(lambda: reserve("a"), lambda: reserve("b"), lambda: reserve("c"), read, read)
    assert [getattr(error, "code", error) for error in errors] == ["budget"] * len(errors)
    assert wrong == []
    assert len(spent(ledger)) == 16
    assert spent(opened(path)) == [(0.5, 1e-7)] * 16


def test_threads_that_reserve_one_run_are_charged_once(path: Path) -> None:
    ledger = opened(path)
    assert in_threads(*[lambda: ledger.reserve(reservation("a", epsilon=5.0))] * 8) == []
    assert spent(ledger) == [(5.0, 1e-6)]


def test_threads_that_settle_one_round_store_one_release(path: Path) -> None:
    ledger = opened(path)
    ledger.reserve(reservation("a"))
    errors = in_threads(*[lambda n=n: ledger.settle("a", 1, "digest", 4, b"%d" % n) for n in range(8)])
    assert [type(error) for error in errors] == [sqlite3.IntegrityError] * 7
    stored = ledger.released("a", 1, "digest")
    assert stored is not None
    assert opened(path).released("a", 1, "digest") == stored

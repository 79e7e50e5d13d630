"""The lifetime cap is an entry of the ledger: a vault can set and lower it, and only a command can raise it."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.vault.ledger.chain import LedgerError
from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from common.errors import InputError, Refused
from common.keys.statement_key import StatementKey, is_signed
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap

KEY = StatementKey.generate()
CAP = Cap(8.0, 1e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def opened(path: Path, key: StatementKey | None = KEY) -> Ledger:
    return Ledger(path, "st-mary", "example", key)


def reservation(run: str, epsilon: float) -> Reservation:
    return Reservation(run, "plan", "fingerprint", Mechanism(0.1, 1.5, 12), epsilon, 1e-6, 3)


def entries(path: Path) -> list[dict[str, Any]]:
    """The entries of the chain, read with SQLite alone."""
    with closing(sqlite3.connect(path)) as database:
        return [json.loads(entry) for (entry,) in database.execute("SELECT entry FROM chain ORDER BY number")]


def caps(path: Path) -> list[tuple[float, float]]:
    return [(entry["epsilon"], entry["delta"]) for entry in entries(path) if entry["kind"] == "cap"]


def test_the_first_cap_is_an_entry_and_the_same_cap_again_is_none(path: Path) -> None:
    for _ in range(2):
        ledger = opened(path)
        ledger.cap.set_or_lower(CAP)
        assert (ledger.cap.current, ledger.cap.raised) == (CAP, 0)
        ledger.close()
    assert caps(path) == [(8.0, 1e-5)]
    assert set(entries(path)[1]) == {"kind", "epsilon", "delta", "at"}


def test_a_ledger_of_an_earlier_version_takes_over_the_cap_that_it_is_given(path: Path) -> None:
    ledger = opened(path)
    ledger.cap.set_or_lower(Cap(20.0, 1e-4))
    ledger.reserve(reservation("a", 5.0))
    ledger.close()
    # Such a ledger has no cap. The chain is made consistent and signed again, as the earlier version wrote it.
    old = path.with_name("old.db")
    earlier = opened(old)
    with earlier._database.transaction():
        earlier._chain.append(entries(path)[2])
    assert earlier.cap.current is None
    with pytest.raises(LedgerError, match="no lifetime cap"):
        earlier.reserve(reservation("b", 0.1))
    assert len(earlier.runs()) == 1
    earlier.cap.set_or_lower(CAP)
    assert (earlier.cap.current, earlier.cap.raised) == (CAP, 0)
    with pytest.raises(Refused, match="budget"):
        earlier.reserve(reservation("b", 3.5))
    earlier.reserve(reservation("b", 3.0))


@pytest.mark.parametrize("lower", [Cap(7.0, 1e-5), Cap(8.0, 1e-6), Cap(7.0, 1e-6)])
def test_a_lower_cap_is_taken_over_and_logged(path: Path, lower: Cap, caplog: pytest.LogCaptureFixture) -> None:
    ledger = opened(path)
    ledger.cap.set_or_lower(CAP)
    with caplog.at_level(logging.INFO):
        ledger.cap.set_or_lower(lower)
    assert (ledger.cap.current, ledger.cap.raised) == (lower, 0)
    assert f"lowered from ε = 8.0, δ = 1e-05 to ε = {lower.epsilon}, δ = {lower.delta}" in caplog.text
    ledger.reserve(reservation("a", 6.9))
    with pytest.raises(Refused, match="budget"):
        ledger.reserve(reservation("b", 1.2))


@pytest.mark.parametrize("higher", [Cap(8.1, 1e-5), Cap(8.0, 2e-5), Cap(7.0, 2e-5), Cap(9.0, 1e-6)])
def test_a_higher_cap_is_refused_with_both_values_and_writes_nothing(path: Path, higher: Cap) -> None:
    ledger = opened(path)
    ledger.cap.set_or_lower(CAP)
    head = ledger.head
    with pytest.raises(InputError) as caught:
        ledger.cap.set_or_lower(higher)
    for part in (f"max_epsilon = {higher.epsilon}", f"max_delta = {higher.delta}", "ε = 8.0", "δ = 1e-05"):
        assert part in str(caught.value)
    assert "sotto privacy raise-cap" in str(caught.value)
    assert (ledger.head, ledger.cap.current) == (head, CAP)


def test_a_raise_is_signed_and_counted_and_allows_more(path: Path) -> None:
    ledger = opened(path)
    ledger.cap.set_or_lower(CAP)
    ledger.reserve(reservation("a", 8.0))
    with pytest.raises(Refused, match="budget"):
        ledger.reserve(reservation("b", 1.0))
    ledger.cap.raise_to(Cap(9.0, 1e-5))
    assert is_signed(ledger.head.signed_bytes(), ledger.head.signature, KEY.public)
    assert (ledger.cap.current, ledger.cap.raised) == (Cap(9.0, 1e-5), 1)
    ledger.reserve(reservation("b", 1.0))
    assert caps(path) == [(8.0, 1e-5), (9.0, 1e-5)]


def test_a_cap_that_was_lowered_and_raised_again_was_raised(path: Path) -> None:
    ledger = opened(path)
    for cap in (CAP, Cap(2.0, 1e-5)):
        ledger.cap.set_or_lower(cap)
    ledger.cap.raise_to(CAP)
    ledger.cap.raise_to(Cap(8.0, 2e-5))
    ledger.cap.raise_to(Cap(9.0, 1e-5))
    assert ledger.cap.raised == opened(path).cap.raised == 3


@pytest.mark.parametrize("wanted", [CAP, Cap(7.0, 1e-5), Cap(8.0, 1e-6)])
def test_what_is_not_higher_is_no_raise(path: Path, wanted: Cap) -> None:
    ledger = opened(path)
    with pytest.raises(InputError, match="does not raise its cap"):
        ledger.cap.raise_to(wanted)
    ledger.cap.set_or_lower(CAP)
    with pytest.raises(InputError, match="does not raise its cap"):
        ledger.cap.raise_to(wanted)
    assert caps(path) == [(8.0, 1e-5)]


def test_a_cap_that_cannot_be_written_is_an_input_error(path: Path) -> None:
    ledger = opened(path)
    ledger._database.rows("PRAGMA query_only = ON")
    with pytest.raises(InputError, match="the lifetime cap cannot be written"):
        ledger.cap.set_or_lower(CAP)
    assert caps(path) == []


@pytest.mark.parametrize(
    ("lower", "said"),
    [
        (Cap(2.9, 1e-5), "ε = 3.0 of 2.9 is spent"),
        (Cap(8.0, 1.9e-6), "δ = 0.000002 of 0.0000019|δ = 2e-06 of 1.9e-06|δ = 0.000002 of 1.9e-06"),
    ],
)
def test_a_cap_is_not_lowered_below_what_is_spent(path: Path, lower: Cap, said: str) -> None:
    """A statement would claim a cap that does not hold."""
    ledger = opened(path)
    ledger.cap.set_or_lower(CAP)
    ledger.reserve(reservation("one", 1.0))
    ledger.reserve(reservation("two", 2.0))
    with pytest.raises(InputError, match=f"more is already charged: .*({said})"):
        ledger.cap.set_or_lower(lower)
    with pytest.raises(InputError, match="more is already charged"):
        ledger.cap.raise_to(Cap(9.0, 1e-6))
    assert caps(path) == [(8.0, 1e-5)]
    ledger.cap.set_or_lower(Cap(3.0, 2e-6))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["configure", "raise", "run"]), st.sampled_from([0.5, 1.0, 2.0, 3.0, 5.0])),
        max_size=25,
    )
)
def test_no_run_exceeds_the_cap_of_its_time_and_only_a_raise_raises_it(steps: list[tuple[str, float]]) -> None:
    ledger = opened(Path(":memory:"))
    ledger.cap.set_or_lower(Cap(2.0, 1.0))
    cap, total, raised = 2.0, 0.0, 0
    for number, (what, value) in enumerate(steps):
        try:
            if what == "configure":
                ledger.cap.set_or_lower(Cap(value, 1.0))
                assert total <= value <= cap
                cap = value
            elif what == "raise":
                ledger.cap.raise_to(Cap(value, 1.0))
                assert value > cap
                cap, raised = value, raised + 1
            else:
                ledger.reserve(reservation(f"run-{number}", value))
                total += value
                assert total <= cap
        except (InputError, Refused):
            refused = {"configure": not total <= value <= cap, "raise": value <= cap, "run": total + value > cap}
            assert refused[what]
        current = ledger.cap.current
        assert current is not None
        assert (current.epsilon, ledger.cap.raised) == (cap, raised)

"""The ledger's chain: changes, deletions, forgeries and old copies are detected, and then nothing is spent."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client.vault.ledger.chain import LedgerError
from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from common.errors import InputError, Refused
from common.keys.statement_key import StatementKey, is_signed
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap

CAP = Cap(8.0, 1e-5)
KEY = StatementKey.generate()


def reservation(run: str, epsilon: float = 1.0) -> Reservation:
    return Reservation(run, "plan", "fingerprint", Mechanism(0.1, 1.5, 12), epsilon, 1e-6, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of a cap, two runs and three releases."""
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, "st-mary", "example", KEY)
    ledger.cap.set_or_lower(CAP)
    ledger.reserve(reservation("a"))
    ledger.settle("a", 1, "request-1", 4, b"first")
    ledger.settle("a", 2, "request-2", 4, b"second")
    ledger.reserve(reservation("b"))
    ledger.settle("b", 1, "request-3", 4, b"third")
    ledger.close()
    return path


def opened(path: Path) -> Ledger:
    return Ledger(path, "st-mary", "example", KEY)


def tamper(path: Path, *statements: str) -> None:
    """Change the file as an attacker with write access would, after dropping the triggers."""
    with sqlite3.connect(path) as database:
        for name, sql in database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
            assert "append-only" in sql
        for statement in statements:
            database.execute(statement)


def test_an_untouched_ledger_opens_and_goes_on(path: Path) -> None:
    ledger = opened(path)
    assert [run.run for run in ledger.runs()] == ["a", "b"]
    assert ledger.head.number == 6
    ledger.settle("b", 2, "request-4", 4, b"fourth")
    assert opened(path).head == ledger.head
    assert ledger.head.number == 7


def test_every_head_is_signed_with_the_key_and_for_this_data(path: Path) -> None:
    ledger = opened(path)
    head = ledger.head
    assert is_signed(head.signed_bytes(), head.signature, KEY.public)
    for other in (replace(head, number=4), replace(head, data_set="00" * 16), replace(head, digest="00" * 32)):
        assert not is_signed(other.signed_bytes(), head.signature, KEY.public)


CHANGES: list[tuple[str, ...]] = [
    ("UPDATE chain SET entry = replace(entry, '\"epsilon\": 1.0', '\"epsilon\": 0.1') WHERE number = 2",),
    ("UPDATE chain SET entry = replace(entry, '\"epsilon\": 8.0', '\"epsilon\": 80.0') WHERE number = 1",),
    ("DELETE FROM chain WHERE number = 1",),
    ("UPDATE chain SET digest = 'aa' WHERE number = 2",),
    ("DELETE FROM chain WHERE number = 2",),
    ("DELETE FROM chain WHERE number = 0",),
    ("DELETE FROM chain", "DELETE FROM releases"),
    ("DELETE FROM chain WHERE number = 6",),
    ("DELETE FROM releases WHERE run = 'b'",),
    ("UPDATE releases SET request = 'another' WHERE run = 'b'",),
    ("UPDATE chain SET number = 9 WHERE number = 6",),
    ("INSERT INTO releases VALUES ('a', 3, 'request-9', x'00')",),
    ("UPDATE chain SET signature = '' WHERE number = 6",),
    ("UPDATE chain SET signature = (SELECT signature FROM chain WHERE number = 5) WHERE number = 6",),
]


@pytest.mark.parametrize("statements", CHANGES, ids=range(len(CHANGES)))
def test_whatever_is_changed_or_removed_is_found_when_the_ledger_is_opened(
    path: Path, statements: tuple[str, ...]
) -> None:
    tamper(path, *statements)
    with pytest.raises(LedgerError):
        opened(path)


def rebuilt(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change entries and make the chain consistent again, as an attacker without the key would."""
    import hashlib

    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT number, entry FROM chain ORDER BY number").fetchall()
    before, statements = "", []
    for number, entry in rows:
        values = json.loads(entry)
        change(values)
        text = json.dumps(values, sort_keys=True)
        before = hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
        statements.append(f"UPDATE chain SET entry = '{text}', digest = '{before}' WHERE number = {number}")
    tamper(path, *statements)


def test_a_chain_that_is_made_consistent_again_without_the_key_is_found(path: Path) -> None:
    def cheaper(values: dict[str, object]) -> None:
        if values["kind"] == "run":
            values["epsilon"] = 0.0

    rebuilt(path, cheaper)
    with pytest.raises(LedgerError, match="not signed"):
        opened(path)


def test_taking_the_key_out_of_the_ledger_does_not_help(path: Path) -> None:
    def keyless(values: dict[str, object]) -> None:
        if values["kind"] == "ledger":
            values["key"] = ""

    rebuilt(path, keyless)
    with pytest.raises(InputError, match="key"):
        opened(path)


def test_a_stored_release_that_was_changed_is_never_answered(path: Path) -> None:
    tamper(path, "UPDATE releases SET released = x'00' WHERE run = 'a' AND round = 1")
    with pytest.raises(LedgerError, match="was changed"):
        opened(path).released("a", 1, "request-1")


def test_an_older_copy_that_is_put_back_is_behind_its_own_signature(path: Path, tmp_path: Path) -> None:
    ledger = opened(path)
    before = ledger.head
    ledger.close()
    copy = tmp_path / "copy.db"
    shutil.copyfile(path, copy)
    ledger = opened(path)
    ledger.reserve(reservation("c"))
    newest = ledger.head
    ledger.check_seen(newest)
    ledger.check_seen(before)
    ledger.check_seen(None)
    ledger.close()
    shutil.copyfile(copy, path)
    older = opened(path)
    older.check_seen(before)
    with pytest.raises(Refused, match="ledger-behind"):
        older.check_seen(newest)


def test_an_older_copy_that_went_on_differently_is_found_too(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copyfile(path, copy)
    first = opened(path)
    first.reserve(reservation("c"))
    other = opened(copy)
    other.reserve(reservation("d"))
    other.reserve(reservation("e"))
    with pytest.raises(Refused, match="ledger-behind"):
        other.check_seen(first.head)


def test_a_new_ledger_in_the_place_of_the_old_one_is_found(path: Path) -> None:
    newest = opened(path).head
    path.unlink()
    with pytest.raises(Refused, match="ledger-behind"):
        opened(path).check_seen(newest)


def test_a_head_that_this_vault_did_not_sign_is_no_head(path: Path) -> None:
    ledger = opened(path)
    forged = replace(ledger.head, number=99)
    signed_by_another = replace(forged, signature=StatementKey.generate().sign(forged.signed_bytes()))
    for head in (forged, signed_by_another, replace(forged, signature=""), replace(forged, signature="zz")):
        with pytest.raises(Refused, match="malformed-request"):
            ledger.check_seen(head)


@pytest.mark.parametrize("key", [None, StatementKey.generate()])
def test_a_ledger_keeps_its_key(path: Path, key: StatementKey | None) -> None:
    with pytest.raises(InputError, match="key"):
        Ledger(path, "st-mary", "example", key)


def test_a_ledger_keeps_its_composition(path: Path) -> None:
    with pytest.raises(InputError, match="composition"):
        Ledger(path, "st-mary", "example", KEY, composition="renyi")


def test_a_ledger_is_made_only_where_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such ledger"):
        Ledger(tmp_path / "none.db", "st-mary", "example", KEY, create=False)
    assert not (tmp_path / "none.db").exists()


def test_two_ledgers_have_different_data(tmp_path: Path) -> None:
    one, two = (Ledger(tmp_path / name, "st-mary", "example", KEY) for name in ("one.db", "two.db"))
    assert one.data_set != two.data_set
    assert len(bytes.fromhex(one.data_set)) == 16

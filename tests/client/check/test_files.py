"""What `sotto client check` finds in key, ledger, plan and socket, and each mistake in them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.vault.policy.approval import Approvals
from common.keys.statement_key import StatementKey
from tests.client.check.checking import (
    change,
    key_of,
    look,
    not_ok,
    open_to_all,
    reserve,
)
from tests.conftest import MakePlan


def of_another_kind(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    key_of(path).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def removed(path: Path) -> None:
    key_of(path).unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(open_to_all, "run: chmod 600"), (of_another_kind, "not an Ed25519 key"), (removed, "sotto client keys")],
)
def test_a_statement_key_that_cannot_be_used_is_wrong(
    path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(path)
    found = look(path)
    assert not_ok(found) == {"ledger statement key": "wrong"}
    assert said in found["ledger", "statement key"].text


def test_another_key_than_the_ledgers_is_wrong(path: Path) -> None:
    reserve(path, 1.0)
    removed(path)
    StatementKey.generate().write(key_of(path))
    found = look(path)
    assert not_ok(found) == {"ledger ledger's key": "wrong"}
    assert "put the key back" in found["ledger", "ledger's key"].text


def changed_entry(path: Path) -> None:
    with sqlite3.connect(path.parent / "ledger.db") as database:
        database.execute("DROP TRIGGER chain_no_UPDATE")
        database.execute("UPDATE chain SET entry = replace(entry, '1.0', '0.1') WHERE number = 1")


def changed_signature(path: Path) -> None:
    with sqlite3.connect(path.parent / "ledger.db") as database:
        database.execute("DROP TRIGGER chain_no_UPDATE")
        database.execute("UPDATE chain SET signature = ? WHERE number = 1", ("00" * 64,))


def no_database(path: Path) -> None:
    (path.parent / "ledger.db").write_bytes(b"garbage" * 100)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (changed_entry, "entry 1 of the ledger was changed or removed"),
        (changed_signature, "is not signed with its key"),
        (no_database, "cannot be used as a ledger"),
    ],
)
def test_a_ledger_that_is_not_sound_is_wrong(
    path: Path, make_plan: MakePlan, spoil: Callable[[Path], None], said: str
) -> None:
    reserve(path, 1.0)
    spoil(path)
    found = look(path, make_plan())
    assert not_ok(found)["ledger ledger"] == "wrong"
    assert said in found["ledger", "ledger"].text
    # What a plan would cost cannot be told without it.
    assert said in found["plan", "cost"].text


def test_a_budget_that_is_used_up_is_noticed(path: Path, make_plan: MakePlan) -> None:
    reserve(path, 20.0)
    found = look(path, make_plan())
    assert not_ok(found) == {"ledger budget": "warning", "plan cost": "wrong"}
    assert "the lifetime budget does not cover it" in found["plan", "cost"].text


def test_a_plan_beyond_the_policy_is_wrong(path: Path, make_plan: MakePlan) -> None:
    found = look(path, make_plan(privacy={"epsilon": 9.0}))
    assert not_ok(found) == {"plan policy": "wrong"}
    assert "privacy.epsilon = 9.0; a run may cost 8.0 at most" in found["plan", "policy"].text
    assert ("plan", "cost") not in found


def test_a_rank_of_its_own_is_said(path: Path, make_plan: MakePlan) -> None:
    change(path, vault={"max_rank": 2})
    plan = make_plan(lora={"rank": 4, "min_rank": 1}, aggregation={"method": "svd"})
    found = look(path, plan)
    assert found["plan", "policy"].text.endswith("in a run; trained at rank 2 of the plan's 4")
    assert found["device", "training"].state == "ok"


def test_a_plan_that_is_not_approved_is_said_and_not_recorded(path: Path, make_plan: MakePlan) -> None:
    change(path, policy={"plans": "approved"})
    found = look(path, make_plan())
    assert not_ok(found) == {"plan approval": "warning"}
    assert "sotto client approve" in found["plan", "approval"].text
    approvals = Approvals(path.parent / "approved-plans.txt")
    assert make_plan() not in approvals
    approvals.add(make_plan())
    assert not_ok(look(path, make_plan())) == {}


def test_a_socket_path_that_is_too_long_is_wrong(path: Path) -> None:
    found = look(change(path, vault={"socket": "s" * 108}))
    assert not_ok(found) == {"connection socket": "wrong"}
    assert "the system allows 107" in found["connection", "socket"].text


def test_a_socket_folder_that_everybody_may_write_is_wrong(path: Path) -> None:
    (path.parent / "run").mkdir()
    (path.parent / "run").chmod(0o777)
    found = look(change(path, vault={"socket": "run/vault.sock"}))
    assert not_ok(found) == {"connection socket": "wrong"}
    assert "chmod o-w" in found["connection", "socket"].text


def test_a_socket_group_has_to_be_there_and_to_reach_the_socket(path: Path) -> None:
    import grp

    own = grp.getgrgid(os.getgid()).gr_name
    (path.parent / "run").mkdir(mode=0o700)
    change(path, vault={"socket": "run/vault.sock", "group": "no-such-group"})
    assert not_ok(look(path)) == {"connection socket's group": "wrong"}
    change(path, vault={"group": own})
    found = look(path)
    assert not_ok(found) == {"connection socket's group": "wrong"}
    assert "may not pass through" in found["connection", "socket's group"].text
    (path.parent / "run").chmod(0o710)
    assert not_ok(look(path)) == {}

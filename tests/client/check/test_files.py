"""`sotto client check` of key, ledger, plan and socket, with each possible mistake."""

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
    open_to_all,
    problems,
    reserve,
    run_checks,
)
from tests.client.vaults import open_vault, request_for
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
    ("damage", "message"),
    [(open_to_all, "run: chmod 600"), (of_another_kind, "not an Ed25519 key"), (removed, "sotto client keys")],
)
def test_a_statement_key_that_cannot_be_used_is_wrong(
    path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(path)
    findings = run_checks(path)
    assert problems(findings) == {"ledger statement key": "wrong"}
    assert message in findings["ledger", "statement key"].text


def test_another_key_than_the_ledgers_is_wrong(path: Path) -> None:
    reserve(path, 1.0)
    removed(path)
    StatementKey.generate().write(key_of(path))
    findings = run_checks(path)
    assert problems(findings) == {"ledger ledger's key": "wrong"}
    assert "restore the key" in findings["ledger", "ledger's key"].text


def changed_entry(path: Path) -> None:
    with sqlite3.connect(path.parent / "ledger.db") as database:
        database.execute("DROP TRIGGER chain_no_UPDATE")
        database.execute("UPDATE chain SET entry = replace(entry, '1.0', '0.1') WHERE number = 2")


def changed_signature(path: Path) -> None:
    with sqlite3.connect(path.parent / "ledger.db") as database:
        database.execute("DROP TRIGGER chain_no_UPDATE")
        database.execute("UPDATE chain SET signature = ? WHERE number = 2", ("00" * 64,))


def no_database(path: Path) -> None:
    (path.parent / "ledger.db").write_bytes(b"garbage" * 100)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed_entry, "entry 2 of the ledger was changed or removed"),
        (changed_signature, "is not signed with the ledger's key"),
        (no_database, "cannot be used as a ledger"),
    ],
)
def test_a_ledger_that_is_not_sound_is_wrong(
    path: Path, make_plan: MakePlan, damage: Callable[[Path], None], message: str
) -> None:
    reserve(path, 1.0)
    damage(path)
    findings = run_checks(path, make_plan())
    assert problems(findings)["ledger ledger"] == "wrong"
    assert message in findings["ledger", "ledger"].text
    # The cost of a plan cannot be computed without it.
    assert message in findings["plan", "cost"].text


def test_a_budget_that_is_used_up_is_noticed(path: Path, make_plan: MakePlan) -> None:
    reserve(path, 20.0)
    findings = run_checks(path, make_plan())
    assert problems(findings) == {"ledger budget": "warning", "plan cost": "wrong"}
    assert "the lifetime budget does not cover it" in findings["plan", "cost"].text


def test_a_plan_beyond_the_policy_is_wrong(path: Path, make_plan: MakePlan) -> None:
    findings = run_checks(path, make_plan(privacy={"epsilon": 9.0}))
    assert problems(findings) == {"plan policy": "wrong"}
    assert "privacy.epsilon = 9.0; a run may cost at most 8.0" in findings["plan", "policy"].text
    assert ("plan", "cost") not in findings


def test_a_rank_of_its_own_is_said(path: Path, make_plan: MakePlan) -> None:
    change(path, vault={"max_rank": 2})
    plan = make_plan(lora={"rank": 4, "min_rank": 1}, aggregation={"method": "svd"})
    findings = run_checks(path, plan)
    assert findings["plan", "policy"].text.endswith("per run; trained at rank 2 of the plan's 4")
    assert findings["device", "training"].state == "ok"


def test_a_plan_that_is_not_approved_is_said_and_not_recorded(path: Path, make_plan: MakePlan) -> None:
    change(path, policy={"plans": "approved"})
    findings = run_checks(path, make_plan())
    assert problems(findings) == {"plan approval": "warning"}
    assert "sotto client approve" in findings["plan", "approval"].text
    approvals = Approvals(path.parent / "approved-plans.txt")
    assert approvals.read() == {}
    approvals.add(make_plan(), 3, 0)
    findings = run_checks(path, make_plan())
    assert problems(findings) == {}
    assert "approved, runs left: 3" in findings["plan", "approval"].text


def test_approved_runs_that_are_used_up_are_said(path: Path, make_plan: MakePlan) -> None:
    change(path, policy={"plans": "approved", "max_epsilon": 100.0, "max_delta": 9e-3})
    Approvals(path.parent / "approved-plans.txt").add(make_plan(), 2, 0)
    vault = open_vault(path)
    vault.train(request_for(make_plan()))
    assert "runs left: 1" in run_checks(path, make_plan())["plan", "approval"].text
    vault.train(request_for(make_plan(), run="second"))
    findings = run_checks(path, make_plan())
    assert problems(findings) == {"plan approval": "warning"}
    assert "used up" in findings["plan", "approval"].text
    assert "sotto client approve" in findings["plan", "approval"].text


def test_approved_plans_that_cannot_be_read_are_wrong(path: Path, make_plan: MakePlan) -> None:
    change(path, policy={"plans": "approved"})
    (path.parent / "approved-plans.txt").write_text("for ever\n")
    findings = run_checks(path, make_plan())
    assert problems(findings) == {"plan approval": "wrong"}
    assert "line 1 is not an approval" in findings["plan", "approval"].text


def test_a_cap_above_the_ledgers_is_wrong_and_a_lower_one_is_not(path: Path) -> None:
    reserve(path, 1.0)
    assert "ε = 20 at δ = 0.005 in the ledger, raised 0 times" in run_checks(path)["ledger", "lifetime cap"].text
    findings = run_checks(change(path, policy={"max_epsilon": 21.0}))
    assert problems(findings) == {"ledger lifetime cap": "wrong"}
    assert "sotto privacy raise-cap" in findings["ledger", "lifetime cap"].text
    assert "left 19 of 20" in findings["ledger", "budget"].text
    findings = run_checks(change(path, policy={"max_epsilon": 10.0}))
    assert problems(findings) == {}
    assert "which applies when the vault starts" in findings["ledger", "lifetime cap"].text
    # Less than is spent: a vault would not start.
    findings = run_checks(change(path, policy={"max_epsilon": 0.5, "max_epsilon_per_run": 0.5}))
    assert problems(findings)["ledger lifetime cap"] == "wrong"
    assert "more is already charged" in findings["ledger", "lifetime cap"].text


def test_a_socket_path_that_is_too_long_is_wrong(path: Path) -> None:
    findings = run_checks(change(path, vault={"socket": "s" * 108}))
    assert problems(findings) == {"connection socket": "wrong"}
    assert "the system allows 107" in findings["connection", "socket"].text


def test_a_socket_folder_that_everybody_may_write_is_wrong(path: Path) -> None:
    (path.parent / "run").mkdir()
    (path.parent / "run").chmod(0o777)
    findings = run_checks(change(path, vault={"socket": "run/vault.sock"}))
    assert problems(findings) == {"connection socket": "wrong"}
    assert "chmod o-w" in findings["connection", "socket"].text


def test_a_socket_group_has_to_be_there_and_to_reach_the_socket(path: Path) -> None:
    import grp

    own = grp.getgrgid(os.getgid()).gr_name
    (path.parent / "run").mkdir(mode=0o700)
    change(path, vault={"socket": "run/vault.sock", "group": "no-such-group"})
    assert problems(run_checks(path)) == {"connection socket's group": "wrong"}
    change(path, vault={"group": own})
    findings = run_checks(path)
    assert problems(findings) == {"connection socket's group": "wrong"}
    assert "cannot enter" in findings["connection", "socket's group"].text
    (path.parent / "run").chmod(0o710)
    assert problems(run_checks(path)) == {}

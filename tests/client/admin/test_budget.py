"""The budget: sums computed by hand, read while a vault writes, and without changing the ledger."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.admin.budget import budget
from client.vault.ledger.chain import LedgerError
from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from client.vault.policy.organization import Data, Organization, Policy, VaultSection
from common.errors import InputError
from common.keys.statement_key import StatementKey
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap

MECHANISM = Mechanism(0.1, 1.5, 12)


def organization(folder: Path, composition: Any = "basic") -> Organization:
    return Organization(
        name="st-mary",
        data=Data(train="records.jsonl", public_size=1000),
        models={"base": "base"},
        policy=Policy(max_epsilon=8.0, max_epsilon_per_run=8.0, max_delta=9e-4, composition=composition),
        vault=VaultSection(ledger=str(folder / "ledger.db")),
    )


def open_ledger(folder: Path, composition: Any = "basic", key: StatementKey | None = None) -> Ledger:
    return Ledger(folder / "ledger.db", "st-mary", "example", key, composition=composition)


def reserve(ledger: Ledger, run: str, epsilon: float, rounds: int = 2, settled: int = 0, cap: Any = None) -> None:
    ledger.cap.set_or_lower(cap or Cap(8.0, 9e-4, "basic"))
    ledger.reserve(Reservation(run, "p", "f", MECHANISM, epsilon, 1e-5, rounds))
    for number in range(1, settled + 1):
        ledger.settle(run, number, f"request {number}", 6, b"release")


def test_spent_reserved_and_left_are_those_of_the_runs(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    reserve(ledger, "a", 1.5, settled=2)
    reserve(ledger, "b", 2.25, settled=1)
    reserve(ledger, "c", 0.1)
    values = budget(organization(tmp_path))
    assert json.loads(json.dumps(values)) == values
    keys = ("organization", "delta", "epsilon_spent", "epsilon_reserved", "epsilon_left", "max_epsilon")
    assert [values[key] for key in keys] == ["st-mary", 9e-4, 1.5, 2.35, 4.15, 8.0]
    assert [(run["run"], run["state"]) for run in values["runs"]] == [
        ("a", "complete"),
        ("b", "reserved"),
        ("c", "reserved"),
    ]
    assert values["runs"][0]["mechanisms"] == [
        {"kind": "poisson-gaussian", "sample_rate": 0.1, "noise_multiplier": 1.5, "steps": 12}
    ]


def test_by_renyi_composition_the_parts_add_up_too(tmp_path: Path) -> None:
    ledger, cap = open_ledger(tmp_path, "renyi"), Cap(8.0, 9e-4, "renyi")
    reserve(ledger, "a", 1.5, settled=2, cap=cap)
    one = budget(organization(tmp_path, "renyi"))
    reserve(ledger, "b", 1.5, cap=cap)
    two = budget(organization(tmp_path, "renyi"))
    assert two["epsilon_spent"] == one["epsilon_spent"] > 0
    assert 0 < two["epsilon_reserved"] < one["epsilon_spent"]
    whole = two["epsilon_spent"] + two["epsilon_reserved"] + two["epsilon_left"]
    assert whole == pytest.approx(8.0)


def test_a_new_ledger_has_everything_left(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    values = budget(organization(tmp_path))
    assert (values["epsilon_spent"], values["epsilon_reserved"], values["epsilon_left"]) == (0.0, 0.0, 8.0)
    assert values["runs"] == []


def test_it_needs_no_private_key_and_still_checks_the_signature(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, key=StatementKey.generate())
    reserve(ledger, "a", 1.5)
    ledger.close()
    assert budget(organization(tmp_path))["epsilon_reserved"] == 1.5
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("DROP TRIGGER chain_no_UPDATE")
        database.execute("UPDATE chain SET signature = ? WHERE number = 2", ("00" * 64,))
    with pytest.raises(LedgerError, match="not signed"):
        budget(organization(tmp_path))


def test_looking_makes_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such ledger"):
        budget(organization(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    reserve(open_ledger(tmp_path), "a", 1.5)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    (tmp_path / "ledger.db").chmod(0o400)
    budget(organization(tmp_path))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


def test_a_ledger_that_is_looked_at_cannot_be_written(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    reader = Ledger(tmp_path / "ledger.db", "st-mary", "example", create=False)
    with pytest.raises(InputError, match="readonly"):
        reader.cap.set_or_lower(Cap(8.0, 9e-4))
    with pytest.raises(sqlite3.OperationalError, match="readonly"), reader._database.transaction():
        reader._chain.append({"kind": "anything"})


def test_a_vault_that_has_begun_to_write_is_not_waited_for_nor_disturbed(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    reserve(ledger, "a", 1.5)
    with ledger._database.transaction():
        ledger._chain.append({"kind": "nothing yet"})
        assert budget(organization(tmp_path))["head"]["number"] == 2
    assert budget(organization(tmp_path))["head"]["number"] == 3


@pytest.mark.parametrize("content", [b"", b"garbage", b"not a database, but long enough to be read as one" * 30])
def test_a_file_that_is_no_ledger_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(content)
    with pytest.raises(InputError, match="cannot be used as a ledger"):
        budget(organization(tmp_path))
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_another_organizations_ledger_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db", "clinic", "example").close()
    with pytest.raises(InputError, match="it should be 'st-mary'"):
        budget(organization(tmp_path))


# Begins a transaction that is too large for SQLite's cache, and dies in the middle of it.
DIE_DURING_WRITE = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN IMMEDIATE")
for number in range(200):
    database.execute("INSERT INTO releases VALUES ('a', ?, 'r', ?)", (number, b"x" * 5000))
os._exit(0)
"""


def test_after_a_vault_was_killed_while_it_wrote_the_next_one_mends_the_ledger(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    reserve(ledger, "a", 1.5)
    ledger.close()
    subprocess.run([sys.executable, "-c", DIE_DURING_WRITE, str(tmp_path / "ledger.db")], check=True)
    assert (tmp_path / "ledger.db-journal").exists()
    with pytest.raises(InputError, match="its vault was killed during a write; start the vault"):
        budget(organization(tmp_path))
    open_ledger(tmp_path).close()
    assert budget(organization(tmp_path))["epsilon_reserved"] == 1.5


def test_the_budget_is_that_of_the_ledgers_cap_whatever_organization_toml_says(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    reserve(ledger, "a", 1.5, cap=Cap(4.0, 1e-4))
    values = budget(organization(tmp_path))
    assert [values[key] for key in ("max_epsilon", "delta", "epsilon_left", "raised")] == [4.0, 1e-4, 2.5, 0]
    ledger.cap.raise_to(Cap(6.0, 1e-4))
    values = budget(organization(tmp_path))
    assert [values[key] for key in ("max_epsilon", "epsilon_left", "raised")] == [6.0, 4.5, 1]

"""`sotto privacy calibrate` and `sotto privacy budget`: noise, cost and remaining budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap
from tests.cli.files import edit, write_organization
from tests.conftest import Cli


def test_calibrate_shows_what_a_plan_needs(cli: Cli, folder: Path) -> None:
    plan = folder / "plan.toml"
    code, printed, errors = cli("privacy", "calibrate", plan, "--public-size", 40, "--public-size", 80, "--json")
    assert (code, errors.strip()) == (0, "")
    given = json.loads(printed)
    assert [row["public_size"] for row in given["organizations"]] == [40, 80]
    assert given["noise_to_signal"]["step"] > 0
    code, printed, _ = cli("privacy", "calibrate", plan, "--json")
    assert code == 0
    # The simulation assigns 40 records to each of a and b.
    assert [(row["name"], row["public_size"]) for row in json.loads(printed)["organizations"]] == [
        ("a", 40),
        ("b", 40),
    ]
    code, printed, _ = cli("privacy", "calibrate", plan)
    assert code == 0
    for expected in ("noise to signal, at best", "batch size 20", "ε 16", "other settings"):
        assert expected in printed
    edit(folder, 'base = "', 'base = "nowhere')
    assert "noise to signal: not computed" in cli("privacy", "calibrate", plan, "--public-size", 40)[1]


def test_calibrate_and_budget_of_an_organization(cli: Cli, folder: Path) -> None:
    path = write_organization(folder)
    code, printed, _ = cli("privacy", "calibrate", folder / "plan.toml", "--organization", path, "--json")
    assert code == 0
    (row,) = json.loads(printed)["organizations"]
    assert (row["name"], row["public_size"], row["noise_multiplier"]) == ("st-mary", 50, 3.0)
    code, _, errors = cli("privacy", "budget", path)
    assert code == 2
    assert "no such ledger" in errors
    ledger = Ledger(folder / "ledger.db", "st-mary", "example")
    run = Reservation("triage-1", "p", "f", Mechanism(0.2, 3.0, 1), 0.75, 1e-3, 1)
    ledger.cap.set_or_lower(Cap(10.0, 1e-2))
    ledger.reserve(run)
    code, printed, _ = cli("privacy", "budget", path, "--json")
    assert code == 0
    values = json.loads(printed)
    assert {
        key: values[key] for key in ("organization", "delta", "epsilon_spent", "epsilon_reserved", "max_epsilon")
    } == {
        "organization": "st-mary",
        "delta": 1e-2,
        "epsilon_spent": 0.0,
        "epsilon_reserved": 0.75,
        "max_epsilon": 10.0,
    }
    ((only,)) = values["runs"]
    assert (only["run"], only["state"]) == ("triage-1", "reserved")
    ledger.settle("triage-1", 1, "request", 1, b"release")
    code, printed, _ = cli("privacy", "budget", path)
    assert code == 0
    assert "ε spent 0.7500, reserved 0.0000, left 9.2500 of 10" in printed
    assert "complete" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--public-size", "40", "--organization", "{folder}/organization.toml"], "cannot be given together"),
        (["--public-size", "9"], "at most public_size = 9"),
        (["--organization", "{folder}/nowhere.toml"], "there is no such file"),
        (["--organization", "{folder}/organization.toml"] * 2, "two have the name 'st-mary'"),
    ],
)
def test_calibrate_refuses_in_one_line(cli: Cli, folder: Path, arguments: list[str], said: str) -> None:
    write_organization(folder)
    given = [argument.format(folder=folder) for argument in arguments]
    code, printed, errors = cli("privacy", "calibrate", folder / "plan.toml", *given)
    assert (code, printed) == (2, "")
    assert said in errors
    assert len(errors.strip().splitlines()) == 1


def test_calibrate_respects_the_policy(cli: Cli, folder: Path) -> None:
    path = write_organization(folder)
    edit(folder, "epsilon = 8.0", "epsilon = 9.5")
    code, _, errors = cli("privacy", "calibrate", folder / "plan.toml", "--organization", path)
    assert code == 2
    assert "a run may cost at most 9.0" in errors


def test_calibrate_without_a_size_names_the_options(cli: Cli, folder: Path) -> None:
    edit(folder, '[simulation]\ndata = "records.jsonl"\n', "[simulation]\n")
    code, _, errors = cli("privacy", "calibrate", folder / "plan.toml")
    assert code == 2
    assert "give --public-size or --organization" in errors

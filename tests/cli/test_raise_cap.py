"""`sotto privacy raise-cap`: the only way to a higher lifetime cap, while the vault is stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from client.vault.ledger.ledger import Ledger
from common.keys.statement_key import StatementKey, is_signed
from common.privacy.privacy_filter import Cap
from common.system.lock import exclusive
from tests.client.vaults import VaultProcess, write_organization
from tests.conftest import Cli
from tests.waiting import LONG

Answer = Callable[[str], None]


@pytest.fixture
def organization(tmp_path: Path, tiny_base: Path) -> Path:
    return write_organization(tmp_path / "st-mary", tiny_base)


def configure(organization: Path, epsilon: float, delta: float = 5e-3) -> None:
    lines = organization.read_text().splitlines()
    values = {"max_epsilon ": epsilon, "max_delta ": delta}
    new = [
        next((f"{key}= {value}" for key, value in values.items() if line.startswith(key)), line) for line in lines
    ]
    organization.write_text("\n".join(new) + "\n")


def ledger_of(organization: Path) -> Ledger:
    key = StatementKey.read(organization.parent / "keys" / "statement.key")
    return Ledger(organization.parent / "ledger.db", "st-mary", "example", key)


@pytest.fixture
def ledger(organization: Path) -> Ledger:
    ledger = ledger_of(organization)
    ledger.cap.set_or_lower(Cap(20.0, 5e-3))
    return ledger


def test_a_raise_asks_and_writes_only_after_a_yes(
    cli: Cli, organization: Path, ledger: Ledger, answer: Answer
) -> None:
    configure(organization, 30.0)
    head = ledger.head
    answer("n")
    code, printed, _ = cli("privacy", "raise-cap", organization)
    assert (code, ledger.head) == (1, head)
    assert "lifetime cap ε = 20.0, δ = 0.005 becomes ε = 30.0, δ = 0.005; ε = 0.0 is spent" in printed
    assert "nothing was recorded" in printed
    answer("y")
    code, printed, _ = cli("privacy", "raise-cap", organization)
    assert (code, ledger.cap.current, ledger.cap.raised) == (0, Cap(30.0, 5e-3), 1)
    assert "may now spend ε = 30.0" in printed
    key = StatementKey.read(organization.parent / "keys" / "statement.key").public
    assert ledger.head.number == head.number + 1
    assert is_signed(ledger.head.signed_bytes(), ledger.head.signature, key)
    configure(organization, 40.0)
    assert "it was raised once before" in cli("privacy", "raise-cap", organization, "--yes")[1]
    values = json.loads(cli("privacy", "budget", organization, "--json")[1])
    assert (values["max_epsilon"], values["raised"]) == (40.0, 2)
    assert "the cap was raised 2 times" in cli("privacy", "budget", organization)[1]


def no_ledger(organization: Path) -> None:
    (organization.parent / "ledger.db").unlink()


def no_cap(organization: Path) -> None:
    no_ledger(organization)
    ledger_of(organization).close()


def no_key(organization: Path) -> None:
    (organization.parent / "keys" / "statement.key").unlink()


def other_key(organization: Path) -> None:
    no_key(organization)
    StatementKey.generate().write(organization.parent / "keys" / "statement.key")


def as_it_is(organization: Path) -> None:
    configure(organization, 20.0)


def lower(organization: Path) -> None:
    configure(organization, 10.0)


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no ledger yet": (no_ledger, "no such ledger; the vault creates it when it starts"),
    "no cap yet": (no_cap, "the ledger has no cap yet"),
    "no key": (no_key, "there is no key"),
    "another key": (other_key, "the ledger has key = "),
    "the same cap": (as_it_is, "first set higher values in organization.toml"),
    "a lower cap": (lower, "policy.max_epsilon = 10.0, policy.max_delta = 0.005: the cap in"),
    "a bad value": (lambda path: configure(path, -1.0), "policy.max_epsilon = -1.0"),
    "a delta too large": (lambda path: configure(path, 30.0, 0.5), "below 1 / public_size"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_raises_nothing(
    cli: Cli, organization: Path, ledger: Ledger, mistake: str
) -> None:
    ledger.close()
    configure(organization, 30.0)
    make, said = MISTAKES[mistake]
    make(organization)
    path = organization.parent / "ledger.db"
    before = path.read_bytes() if path.exists() else None
    code, printed, errors = cli("privacy", "raise-cap", organization, "--yes")
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert said in errors
    assert (path.read_bytes() if path.exists() else None) == before


def test_without_a_terminal_nothing_is_raised(cli: Cli, organization: Path, ledger: Ledger) -> None:
    configure(organization, 30.0)
    code, printed, errors = cli("privacy", "raise-cap", organization)
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert "add --yes" in errors
    assert (ledger.cap.current, ledger.cap.raised) == (Cap(20.0, 5e-3), 0)


def test_the_command_takes_the_lock_of_the_vault(cli: Cli, organization: Path, ledger: Ledger) -> None:
    configure(organization, 30.0)
    with exclusive(ledger.path):
        code, _, errors = cli("privacy", "raise-cap", organization, "--yes")
    assert (code, errors.count("\n"), ledger.cap.raised) == (2, 1, 0)
    assert f"in use by the vault, process {os.getpid()}; stop it" in errors


def test_a_real_vault_refuses_a_higher_cap_until_it_is_raised_and_holds_off_the_command(
    cli: Cli, organization: Path, ledger: Ledger
) -> None:
    configure(organization, 30.0)
    vault = VaultProcess(organization)
    assert vault.process.wait(LONG) == 2
    errors = vault.errors.read_text()
    assert errors.count("\n") == 1
    for part in ("policy.max_epsilon = 30.0", "ε = 20.0", "sotto privacy raise-cap"):
        assert part in errors
    assert cli("privacy", "raise-cap", organization, "--yes")[0] == 0
    configure(organization, 25.0)
    with VaultProcess(organization).wait_ready() as running:
        assert "the lifetime cap is lowered from ε = 30.0" in running.output.read_text()
        configure(organization, 40.0)
        code, _, errors = cli("privacy", "raise-cap", organization, "--yes")
        assert (code, errors.count("\n")) == (2, 1)
        assert f"in use by the vault, process {running.process.pid}" in errors
    assert (ledger.cap.current, ledger.cap.raised) == (Cap(25.0, 5e-3), 1)

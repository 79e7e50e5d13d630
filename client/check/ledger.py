"""Whether the statement key and the ledger are intact, and what is left of the budget."""

from __future__ import annotations

import os
from pathlib import Path

from client.admin.budget import budget, times
from client.check.findings import Findings, Group
from client.vault.ledger.cap import is_higher
from client.vault.ledger.reader import read_ledger
from client.vault.policy.organization import Organization
from client.vault.policy.policy import lifetime_cap
from common.errors import InputError
from common.keys.statement_key import StatementKey, key_fingerprint

_GROUP = Group("ledger")


def check_ledger(organization: Organization) -> Findings[None]:
    """Check the statement key and the ledger, which is opened read-only."""
    key = yield from _GROUP.run("statement key", _statement_key(organization))
    path = organization.path(organization.vault.ledger)
    if not path.exists():
        yield _GROUP.ok("ledger", f"{path} does not exist yet; the vault creates it when it first starts")
        return
    yield from _GROUP.run("ledger", _ledger(organization, path))
    if key is not None:
        yield from _GROUP.run("ledger's key", _ledger_key(organization, key))


def _statement_key(organization: Organization) -> Findings[StatementKey]:
    path = organization.path(organization.vault.statement_key)
    key = StatementKey.read(path)
    yield _GROUP.ok(
        "statement key", f"{path}, accessible to its owner only; fingerprint {key_fingerprint(key.public)}"
    )
    return key


def _ledger(organization: Organization, path: Path) -> Findings[None]:
    values = budget(organization)
    entries = values["head"]["number"] + 1
    runs = values["runs"]
    yield _GROUP.ok(
        "ledger",
        f"intact: {entries} chained entries, {len(runs)} runs, the newest entry signed with the ledger's key",
    )
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        yield _GROUP.wrong("ledger file", f"{path}: this user cannot write it or its folder, but the vault must")
    text = (
        f"ε spent {values['epsilon_spent']:g}, reserved {values['epsilon_reserved']:g}, left "
        f"{values['epsilon_left']:g} of {values['max_epsilon']:g} at δ = {values['delta']:g}"
    )
    if values["epsilon_left"] > 0:
        yield _GROUP.ok("budget", text)
    else:
        yield _GROUP.warning("budget", f"{text}: no further run is possible on this data")
    yield from _GROUP.run("lifetime cap", _cap(organization))


def _cap(organization: Organization) -> Findings[None]:
    """Compare the cap of organization.toml with that of the ledger, as the vault does when it starts."""
    wanted = lifetime_cap(organization)
    with read_ledger(organization) as ledger:
        current, raised = ledger.cap.current, ledger.cap.raised
        if current is not None and wanted != current and not is_higher(wanted, current):
            ledger.cap.check_covers_spent(wanted)
    if current is None:
        return
    text = f"ε = {current.epsilon:g} at δ = {current.delta:g} in the ledger, raised {times(raised)}"
    configured = f"organization.toml has ε = {wanted.epsilon:g} at δ = {wanted.delta:g}"
    if is_higher(wanted, current):
        yield _GROUP.wrong(
            "lifetime cap",
            f"{text}; {configured}, and the vault would not start: to raise the cap, run: "
            "sotto privacy raise-cap ORGANIZATION.toml",
        )
    elif wanted == current:
        yield _GROUP.ok("lifetime cap", text)
    else:
        yield _GROUP.ok("lifetime cap", f"{text}; {configured}, which applies when the vault starts")


def _ledger_key(organization: Organization, key: StatementKey) -> Findings[None]:
    try:
        with read_ledger(organization, key):
            yield _GROUP.ok("ledger's key", "the ledger was created with this statement key")
    except InputError as error:
        yield _GROUP.wrong("ledger's key", f"{error}; restore the key that the ledger was created with")

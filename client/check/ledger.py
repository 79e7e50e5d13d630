"""Whether the statement key and the ledger are sound, and what is left of the budget."""

from __future__ import annotations

import os
from pathlib import Path

from client.admin.budget import budget
from client.check.findings import Checks, Group
from client.vault.ledger.reader import read_ledger
from client.vault.policy.organization import Organization
from common.errors import InputError
from common.keys.statement_key import StatementKey, key_fingerprint

_GROUP = Group("ledger")


def check_ledger(organization: Organization) -> Checks[None]:
    """Look at the statement key and at the ledger, which is opened to look only."""
    key = yield from _GROUP.look("statement key", _statement_key(organization))
    path = organization.path(organization.vault.ledger)
    if not path.exists():
        yield _GROUP.ok("ledger", f"{path} is not there yet; the vault makes it when it first starts")
        return
    yield from _GROUP.look("ledger", _ledger(organization, path))
    if key is not None:
        yield from _GROUP.look("ledger's key", _bound(organization, key))


def _statement_key(organization: Organization) -> Checks[StatementKey]:
    path = organization.path(organization.vault.statement_key)
    key = StatementKey.read(path)
    yield _GROUP.ok(
        "statement key", f"{path}, for its owner alone; its fingerprint is {key_fingerprint(key.public)}"
    )
    return key


def _ledger(organization: Organization, path: Path) -> Checks[None]:
    values = budget(organization)
    entries = values["head"]["number"] + 1
    runs = values["runs"]
    yield _GROUP.ok(
        "ledger", f"sound: {entries} chained entries, {len(runs)} runs, the newest signed with the ledger's key"
    )
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        yield _GROUP.wrong("ledger file", f"{path}: this user may not write it or its folder; the vault has to")
    text = (
        f"ε spent {values['epsilon_spent']:g}, reserved {values['epsilon_reserved']:g}, left "
        f"{values['epsilon_left']:g} of {values['max_epsilon']:g} at δ = {values['delta']:g}"
    )
    if values["epsilon_left"] > 0:
        yield _GROUP.ok("budget", text)
    else:
        yield _GROUP.warning("budget", f"{text}: no other run is possible on this data")


def _bound(organization: Organization, key: StatementKey) -> Checks[None]:
    try:
        with read_ledger(organization, key):
            yield _GROUP.ok("ledger's key", "the statement key is the one that the ledger was made with")
    except InputError as error:
        yield _GROUP.wrong("ledger's key", f"{error}; put the key back that the ledger was made with")

"""Helpers for the tests of the service: a client, and the vault's ledger."""

from __future__ import annotations

from pathlib import Path

from client.relay.vault_client import RemoteVault
from client.vault.ledger.ledger import Ledger
from common.keys.statement_key import StatementKey
from tests.waiting import LONG


def remote(socket: Path) -> RemoteVault:
    return RemoteVault(socket, timeout=LONG, patience=LONG)


def ledger_of(organization: Path) -> Ledger:
    key = StatementKey.read(organization.parent / "keys" / "statement.key")
    return Ledger(organization.parent / "ledger.db", "st-mary", "example", key)


class Panic(BaseException):
    """Like a panic in a Rust extension: not an `Exception`."""

"""Bugs of the ledger and the policy: what is charged, kept, approved and added up."""

from __future__ import annotations

import json
from typing import Any

import client.vault.vault
from client.vault.ledger.cap import CapEntries
from client.vault.ledger.chain import Chain
from client.vault.ledger.ledger import Ledger
from client.vault.policy.approval import Approval
from common.privacy.privacy_filter import Cap


def settle_without_reserve() -> None:
    """Training and releasing before the run is charged; the charge comes after."""
    reserve, settle = Ledger.reserve, Ledger.settle

    def late(self: Any, reservation: Any) -> Any:
        self._late = reservation
        return reservation

    def settle_first(self: Any, *arguments: Any) -> None:
        reserve(self, self._late)
        settle(self, *arguments)

    Ledger.reserve = late  # type: ignore[method-assign]
    Ledger.settle = settle_first  # type: ignore[method-assign]


def answer_before_commit() -> None:
    """The release is answered and never stored."""
    Ledger.settle = lambda self, *arguments: None  # type: ignore[method-assign]


def old_ledger_accepted() -> None:
    """A ledger that is behind its own signature goes on."""
    Ledger.check_seen = lambda self, seen: None  # type: ignore[method-assign]


def chain_not_checked() -> None:
    """The ledger is opened without a look at its chain."""

    def verify(self: Chain) -> list[dict[str, Any]]:
        return [json.loads(entry) for (entry,) in self._query("SELECT entry FROM chain ORDER BY number")]

    Chain.verify = verify  # type: ignore[method-assign]


def approval_ignored() -> None:
    """Any plan is trained."""
    client.vault.vault.Vault._check_approved = lambda self, request, plan: None  # type: ignore[method-assign]


def approval_for_ever() -> None:
    """An approved plan may be run any number of times."""
    Approval.left = lambda self, used: self.total  # type: ignore[method-assign]


def runs_not_added_up() -> None:
    """Each run is held against the cap by itself."""
    covers = Cap.covers
    Cap.covers = lambda self, runs: covers(self, runs[-1:])  # type: ignore[method-assign]


def cap_of_the_file() -> None:
    """The lifetime cap is that of organization.toml at each start, whatever the ledger says."""
    CapEntries.set_or_lower = lambda self, wanted: vars(self).update(wanted=wanted)  # type: ignore[method-assign]
    CapEntries.current = property(lambda self: self.wanted)  # type: ignore[assignment]

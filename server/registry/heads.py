"""The newest ledger head of each registered organization, across runs.

Every request contains the head that the organization's ledger must include: a ledger restored from an older copy
is detected.
"""

from __future__ import annotations

from pathlib import Path

from common.keys.statement_key import is_signed, read_public
from common.protocol.statement import Head
from server.registry.registry import path_of, replace_file


class LedgerHeads:
    """Stores the heads, one file per organization beside its keys.

    Args:
        folder: of the registry; None for a simulation, whose vaults have no keys: nothing is stored.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._newest: dict[str, Head] = {}

    def newest(self, name: str) -> Head | None:
        """Return the newest head of an organization's ledger; None if no head was received."""
        if name in self._newest or self._folder is None:
            return self._newest.get(name)
        try:
            text = path_of(self._folder, name, "head").read_text(encoding="utf-8")
            self._newest[name] = Head.from_json(text)
        except (FileNotFoundError, ValueError):
            return None
        return self._newest[name]

    def record(self, name: str, head: Head | None) -> None:
        """Store a head from an organization if it is newer and signed with the registered key."""
        if self._folder is None or head is None:
            return
        key = path_of(self._folder, name, "pub")
        if not key.exists() or not is_signed(head.signed_bytes(), head.signature, read_public(key)):
            return
        known = self.newest(name)
        if known is not None and (known.data_set != head.data_set or known.number >= head.number):
            # Another data set under the same name would be a fresh budget.
            return
        self._newest[name] = head
        replace_file(path_of(self._folder, name, "head"), head.to_json())

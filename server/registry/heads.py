"""The newest ledger heads that registered organizations have shown, in any run.

A vault is asked for a ledger that holds them: an older copy of a ledger, put back, is noticed.
"""

from __future__ import annotations

from pathlib import Path

from common.keys.statement_key import is_signed, read_public
from common.protocol.statement import Head
from server.registry.registry import path_of, replace_file


class LedgerHeads:
    """The heads, one file an organization beside its keys.

    Args:
        folder: of the registry; None for a simulation, whose vaults have no keys: nothing is remembered.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._shown: dict[str, Head] = {}

    def newest(self, name: str) -> Head | None:
        """The newest head of an organization's ledger that was shown."""
        if name in self._shown or self._folder is None:
            return self._shown.get(name)
        try:
            text = path_of(self._folder, name, "head").read_text(encoding="utf-8")
            self._shown[name] = Head.from_json(text)
        except (FileNotFoundError, ValueError):
            return None
        return self._shown[name]

    def note(self, name: str, head: Head | None) -> None:
        """Remember a head that an organization shows, if it is newer and signed with the registered key."""
        if self._folder is None or head is None:
            return
        key = path_of(self._folder, name, "pub")
        if not key.exists() or not is_signed(head.signed_bytes(), head.signature, read_public(key)):
            return
        known = self.newest(name)
        if known is not None and (known.data_set != head.data_set or known.number >= head.number):
            # Another data set under the same name would be a budget that began anew.
            return
        self._shown[name] = head
        replace_file(path_of(self._folder, name, "head"), head.to_json())

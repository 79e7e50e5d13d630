"""Lookup of registered organizations by node key and by node, for the gateway and for runs; always up to date."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from common.errors import SottoError
from common.keys.node_key import NodePublicKey
from server.registry.registry import Registry

# Resolution of file times on coarse file systems.
_COARSE_NS = 10**9


class Members:
    """Registered organizations by node key and by node; reloaded whenever the registry's folder changes.

    Args:
        folder: of the registry.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._registry = Registry(folder)
        self._read_at: int | None = None
        self._files_read: frozenset[tuple[str, int, int]] | None = None
        self._names: dict[NodePublicKey, str] = {}
        self._nodes: dict[str, int] = {}
        self._by_node: dict[int, str] = {}
        self._revoked: set[str] = set()

    def name_of_key(self, key: NodePublicKey) -> str | None:
        """Return the organization with this node key; None if there is none."""
        self._refresh()
        return self._names.get(key)

    def name_of_node(self, node: int) -> str | None:
        """Return the organization with this node of the SuperLink; None if there is none."""
        self._refresh()
        return self._by_node.get(node)

    def node_of_key(self, key: NodePublicKey) -> int | None:
        """Return the SuperLink's id of the node with this key; None if the SuperLink does not know it yet."""
        self._refresh()
        return self._nodes.get(self._names.get(key, ""))

    def is_revoked(self, key: NodePublicKey) -> bool:
        """Return whether this node key was revoked."""
        self._refresh()
        return key.fingerprint in self._revoked

    def _refresh(self) -> None:
        try:
            # Every change of the registry replaces a file, which changes the time of its folder.
            changed_at = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            changed_at = 0
        if changed_at == self._read_at:
            return
        files = self._files()
        if files == self._files_read:
            # Only ledger heads changed, as in every round: no key needs to be reloaded.
            self._read_at = self._stable(changed_at)
            return
        try:
            keys, self._nodes = self._registry.node_keys(), self._registry.node_ids()
            self._revoked = self._registry.revoked()
        except (OSError, ValueError, SottoError):
            # Read during a change, or damaged: no organization is accepted until it can be read.
            self._names, self._by_node, self._read_at, self._files_read = {}, {}, None, None
            return
        self._names = {key: name for name, key in keys.items()}
        self._by_node = {node: name for name, node in self._nodes.items() if name in keys}
        self._files_read, self._read_at = files, self._stable(changed_at)

    def _files(self) -> frozenset[tuple[str, int, int]]:
        """Return names, inodes and times of the files except the heads. They differ if a file was replaced."""
        files = set()
        for path in self._folder.glob("*"):
            if path.suffix not in (".head", ".part"):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    files.add((path.name, status.st_ino, status.st_mtime_ns))
        return frozenset(files)

    @staticmethod
    def _stable(changed_at: int) -> int | None:
        # Times of files are coarse: a later change may get the same time.
        return changed_at if time.time_ns() - changed_at > _COARSE_NS else None

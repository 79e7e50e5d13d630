"""Who may enter: the registered organizations as the gateway and a run look them up, always as they are now."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from common.errors import SottoError
from common.keys.node_key import NodePublicKey
from server.registry.registry import Registry

_COARSE_NS = 10**9


class Members:
    """The registered organizations by node key and by node; read again whenever the registry's folder changes.

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
        """The organization whose node key this is."""
        self._look()
        return self._names.get(key)

    def name_of_node(self, node: int) -> str | None:
        """The organization whose node this is in the SuperLink."""
        self._look()
        return self._by_node.get(node)

    def node_of_key(self, key: NodePublicKey) -> int | None:
        """The SuperLink's number of the node that has this key; None as long as it has none."""
        self._look()
        return self._nodes.get(self._names.get(key, ""))

    def is_revoked(self, key: NodePublicKey) -> bool:
        """Whether this node key was revoked."""
        self._look()
        return key.fingerprint in self._revoked

    def _look(self) -> None:
        try:
            # Every change of the registry is a file that takes another's place, which its folder notes.
            changed_at = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            changed_at = 0
        if changed_at == self._read_at:
            return
        files = self._files()
        if files == self._files_read:
            # Only heads of ledgers changed, as they do in every round: no key need be read again.
            self._read_at = self._settled(changed_at)
            return
        try:
            keys, self._nodes = self._registry.node_keys(), self._registry.node_ids()
            self._revoked = self._registry.revoked()
        except (OSError, ValueError, SottoError):
            # Read in the middle of a change, or broken: nobody enters until it can be read.
            self._names, self._by_node, self._read_at, self._files_read = {}, {}, None, None
            return
        self._names = {key: name for name, key in keys.items()}
        self._by_node = {node: name for name, node in self._nodes.items() if name in keys}
        self._files_read, self._read_at = files, self._settled(changed_at)

    def _files(self) -> frozenset[tuple[str, int, int]]:
        """Names, numbers and times of the files beside the heads. A file that is replaced differs."""
        found = set()
        for path in self._folder.glob("*"):
            if path.suffix not in (".head", ".part"):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    found.add((path.name, status.st_ino, status.st_mtime_ns))
        return frozenset(found)

    @staticmethod
    def _settled(changed_at: int) -> int | None:
        # Clocks of file systems are coarse: a second change may get the time of the first.
        return changed_at if time.time_ns() - changed_at > _COARSE_NS else None

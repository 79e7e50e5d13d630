"""Who may enter: the registered organizations as the door and a run look them up, always as they are now."""

from __future__ import annotations

import time
from pathlib import Path

from common.errors import SottoError
from common.node_key import NodePublicKey
from server.registry import Registry

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

    def node_of(self, name: str) -> int | None:
        """The SuperLink's number of an organization's node; None until the SuperLink knows it."""
        self._look()
        return self._nodes.get(name)

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
        try:
            keys, self._nodes = self._registry.node_keys(), self._registry.node_ids()
            self._revoked = self._registry.revoked()
        except (OSError, ValueError, SottoError):
            # Read in the middle of a change, or broken: nobody enters until it can be read.
            self._names, self._by_node, self._read_at = {}, {}, None
            return
        self._names = {key: name for name, key in keys.items()}
        self._by_node = {node: name for name, node in self._nodes.items() if name in keys}
        # Clocks of file systems are coarse: a second change may get the time of the first.
        self._read_at = changed_at if time.time_ns() - changed_at > _COARSE_NS else None

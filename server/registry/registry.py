"""The registry of organizations: their public keys, in one folder that is kept across runs.

`NAME.pub` is the statement key and `NAME.node-key` the node key, in OpenSSH format; `NAME.node-id` is the
SuperLink's id of the node; `NAME.head` is the newest ledger head. `revoked` lists the fingerprints of node keys
that are never accepted again. Only a registered statement key makes a signature valid, and only a registered node
key may connect.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path

from common.errors import InputError
from common.keys.node_key import NodePublicKey
from common.keys.statement_key import public_line, read_keys, read_public
from common.plan.plan import NAME_PATTERN
from common.system.lock import exclusive

_LOCK_SECONDS = 60.0


class Registry:
    """The registry.

    Args:
        folder: of the registry; None for a simulation, whose vaults have no keys.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def register(self, name: str, node: Path, statement: Path) -> tuple[NodePublicKey, str]:
        """Register an organization's public keys. A new node key replaces the previous one.

        Args:
            name: of the organization.
            node: file of its public node key.
            statement: file of its public statement key.

        Returns:
            The node key, and the statement key in hexadecimal.

        Raises:
            InputError: the name or a key is invalid, the name is registered with another statement key, or the
                node key was revoked or belongs to another organization.
        """
        public, node_key = read_public(statement), NodePublicKey.read(node)
        path = self._path(name, "pub")
        with self.exclusive():
            if path.exists() and read_public(path) != public:
                raise InputError(f"{name}: has another statement key; first run: sotto server revoke {name}")
            if node_key.fingerprint in self.revoked():
                raise InputError(f"{node}: this node key was revoked; the organization should create a new one")
            nodes = self.node_keys()
            for other, key in nodes.items():
                if key == node_key and other != name:
                    raise InputError(f"{node}: is the node key of {other!r}; each organization needs its own")
            previous = nodes.get(name)
            if previous is not None and previous != node_key:
                self._revoke_node(name, previous)
            replace_file(path, public_line(public, name))
            replace_file(self._path(name, "node-key"), node_key.line(name))
        return node_key, public

    def revoke(self, name: str) -> None:
        """Remove an organization's keys and the head of its ledger; its node key is never accepted again.

        Raises:
            InputError: the organization is not registered.
        """
        path = self._path(name, "pub")
        with self.exclusive():
            if not path.exists():
                raise InputError(f"{name}: is not registered; registered: {', '.join(self.keys()) or 'none'}")
            node = self.node_keys().get(name)
            if node is not None:
                self._revoke_node(name, node)
            path.unlink()
            self._path(name, "head").unlink(missing_ok=True)

    def exclusive(self) -> AbstractContextManager[None]:
        """Return the lock for changing the list of organizations, or synchronizing the SuperLink with it."""
        return exclusive(self.folder / "organizations", patience=_LOCK_SECONDS)

    @property
    def folder(self) -> Path:
        """The registry's folder.

        Raises:
            InputError: there is none, as in a simulation.
        """
        if self._folder is None:
            raise InputError("a simulation has no registered organizations")
        return self._folder

    def node_keys(self) -> dict[str, NodePublicKey]:
        """Return organization → its public node key."""
        return {path.stem: NodePublicKey.read(path) for path in sorted(self.folder.glob("*.node-key"))}

    def node_ids(self) -> dict[str, int]:
        """Return organization → the SuperLink's id of its node, for nodes that the SuperLink knows."""
        texts = {path.stem: path.read_text(encoding="ascii") for path in sorted(self.folder.glob("*.node-id"))}
        return {name: int(text) for name, text in texts.items()}

    def set_node_id(self, name: str, node: int) -> None:
        """Store the SuperLink's id of an organization's node."""
        replace_file(self._path(name, "node-id"), str(node))

    def revoked(self) -> set[str]:
        """Return the fingerprints of revoked node keys."""
        try:
            return set((self.folder / "revoked").read_text(encoding="ascii").split())
        except FileNotFoundError:
            return set()

    def _revoke_node(self, name: str, key: NodePublicKey) -> None:
        # In this order: a key is on the list before it is removed from its organization.
        revoked = sorted({*self.revoked(), key.fingerprint})
        replace_file(self.folder / "revoked", "".join(f"{fingerprint}\n" for fingerprint in revoked))
        for kind in ("node-key", "node-id"):
            self._path(name, kind).unlink(missing_ok=True)

    def keys(self) -> dict[str, str]:
        """Return organization → its public statement key, in hexadecimal."""
        if self._folder is None:
            return {}
        return read_keys(self._folder)

    def _path(self, name: str, kind: str) -> Path:
        return path_of(self.folder, name, kind)


def path_of(folder: Path, name: str, kind: str) -> Path:
    """Return the path of an organization's file in the registry's folder.

    Raises:
        InputError: the name is invalid.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise InputError(f"{name!r}: a name should have at most 40 lower-case letters, digits and hyphens")
    return folder / f"{name}.{kind}"


def replace_file(path: Path, text: str) -> None:
    """Write a file atomically; the change is visible in the time of its folder."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)

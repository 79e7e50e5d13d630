"""Organizations that the coordinator knows, by their keys.

One folder beside the SuperLink's state, kept from run to run. `NAME.pub` is the statement key and `NAME.node-key`
the node key, in the format of OpenSSH; `NAME.node-id` is the number under which the SuperLink knows the node;
`NAME.head` is the newest head. `revoked` lists the fingerprints of node keys that are never taken again. Only a
key that was registered here makes a signature valid, and lets a node in.
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
    """Registered organizations.

    Args:
        folder: where they are kept; None for a simulation, whose vaults have no keys.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def register(self, name: str, node: Path, statement: Path) -> tuple[NodePublicKey, str]:
        """Take an organization's public keys. Another node key takes the place of the earlier one.

        Args:
            name: of the organization.
            node: the file of its public node key.
            statement: the file of its public statement key.

        Returns:
            The node key, and the statement key in hexadecimal.

        Raises:
            InputError: no such name or key; the name has another statement key, or the node key is another
                organization's or was revoked.
        """
        public, node_key = read_public(statement), NodePublicKey.read(node)
        path = self._path(name, "pub")
        with self.exclusive():
            if path.exists() and read_public(path) != public:
                raise InputError(f"{name}: has another statement key; first run: sotto server revoke {name}")
            if node_key.fingerprint in self.revoked():
                raise InputError(f"{node}: this node key was revoked; the organization makes a new one")
            nodes = self.node_keys()
            for other, key in nodes.items():
                if key == node_key and other != name:
                    raise InputError(f"{node}: is the node key of {other!r}; each organization makes its own")
            earlier = nodes.get(name)
            if earlier is not None and earlier != node_key:
                self._revoke_node(name, earlier)
            replace_file(path, public_line(public, name))
            replace_file(self._path(name, "node-key"), node_key.line(name))
        return node_key, public

    def revoke(self, name: str) -> None:
        """Forget an organization's keys and the head of its ledger; its node key is never taken again.

        Raises:
            InputError: it was not registered.
        """
        path = self._path(name, "pub")
        with self.exclusive():
            if not path.exists():
                raise InputError(f"{name}: is not registered; known: {', '.join(self.keys()) or 'nobody'}")
            node = self.node_keys().get(name)
            if node is not None:
                self._revoke_node(name, node)
            path.unlink()
            self._path(name, "head").unlink(missing_ok=True)

    def exclusive(self) -> AbstractContextManager[None]:
        """Held by whoever changes the list of organizations, or makes the SuperLink's the same."""
        return exclusive(self.folder / "organizations", patience=_LOCK_SECONDS)

    @property
    def folder(self) -> Path:
        """Where it is kept.

        Raises:
            InputError: it is a simulation's.
        """
        if self._folder is None:
            raise InputError("a simulation registers nobody")
        return self._folder

    def node_keys(self) -> dict[str, NodePublicKey]:
        """Organization → its public node key."""
        return {path.stem: NodePublicKey.read(path) for path in sorted(self.folder.glob("*.node-key"))}

    def node_ids(self) -> dict[str, int]:
        """Organization → the SuperLink's number of its node, of those that the SuperLink knows already."""
        found = {path.stem: path.read_text(encoding="ascii") for path in sorted(self.folder.glob("*.node-id"))}
        return {name: int(text) for name, text in found.items()}

    def set_node_id(self, name: str, node: int) -> None:
        """Remember the SuperLink's number of an organization's node."""
        replace_file(self._path(name, "node-id"), str(node))

    def revoked(self) -> set[str]:
        """Fingerprints of the node keys that are never taken again."""
        try:
            return set((self.folder / "revoked").read_text(encoding="ascii").split())
        except FileNotFoundError:
            return set()

    def _revoke_node(self, name: str, key: NodePublicKey) -> None:
        # In this order: a key that is nobody's any more is on the list already.
        revoked = sorted({*self.revoked(), key.fingerprint})
        replace_file(self.folder / "revoked", "".join(f"{one}\n" for one in revoked))
        for kind in ("node-key", "node-id"):
            self._path(name, kind).unlink(missing_ok=True)

    def keys(self) -> dict[str, str]:
        """Organization → its public statement key, in hexadecimal."""
        if self._folder is None:
            return {}
        return read_keys(self._folder)

    def _path(self, name: str, kind: str) -> Path:
        return path_of(self.folder, name, kind)


def path_of(folder: Path, name: str, kind: str) -> Path:
    """The file of an organization in the registry's folder.

    Raises:
        InputError: no organization can have that name.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise InputError(f"{name!r}: a name has lower-case letters, digits and hyphens, at most 40")
    return folder / f"{name}.{kind}"


def replace_file(path: Path, text: str) -> None:
    """Write a file whole; processes that watch the folder see that it changed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)

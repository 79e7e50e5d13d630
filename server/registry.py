"""Organizations that the coordinator knows: their statement keys, and the newest ledger heads they have shown.

One folder beside the SuperLink's state, kept from run to run: `NAME.pub` is the key, in the format of OpenSSH;
`NAME.head` the newest head. Only a key that was registered here makes a signature valid.
"""

from __future__ import annotations

import re
from pathlib import Path

from common.errors import InputError
from common.plan import NAME_PATTERN
from common.protocol import Head
from common.signing import is_signed, public_line, read_keys, read_public


class Registry:
    """Registered organizations.

    Args:
        folder: where they are kept; None for a simulation, whose vaults have no keys.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._shown: dict[str, Head] = {}

    def register(self, name: str, key: Path) -> str:
        """Take an organization's public key.

        Returns:
            The key, in hexadecimal.

        Raises:
            InputError: no such name or key, or the name has another key.
        """
        public = read_public(key)
        path = self._path(name, "pub")
        if path.exists() and read_public(path) != public:
            raise InputError(f"{name}: has another key already; first run: sotto server revoke {name}")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(public_line(public, name), encoding="ascii")
        return public

    def revoke(self, name: str) -> None:
        """Forget an organization's key and the head of its ledger.

        Raises:
            InputError: it was not registered.
        """
        path = self._path(name, "pub")
        if not path.exists():
            raise InputError(f"{name}: is not registered; known: {', '.join(self.keys()) or 'nobody'}")
        path.unlink()
        self._path(name, "head").unlink(missing_ok=True)

    def keys(self) -> dict[str, str]:
        """Organization → its public key, in hexadecimal."""
        if self._folder is None:
            return {}
        return read_keys(self._folder)

    def newest(self, name: str) -> Head | None:
        """The newest head of an organization's ledger that was shown, in any run."""
        if name in self._shown or self._folder is None:
            return self._shown.get(name)
        try:
            self._shown[name] = Head.from_json(self._path(name, "head").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return self._shown[name]

    def note(self, name: str, head: Head | None) -> None:
        """Remember a head that an organization shows, if it is newer and signed with the registered key."""
        public = self._key(name)
        if head is None or public is None or not is_signed(head.signed_bytes(), head.signature, public):
            return
        known = self.newest(name)
        if known is not None and (known.data_set != head.data_set or known.number >= head.number):
            # Another data set under the same name would be a budget that began anew.
            return
        self._shown[name] = head
        path = self._path(name, "head")
        part = path.with_name(path.name + ".part")
        part.write_text(head.to_json(), encoding="utf-8")
        part.replace(path)

    def _key(self, name: str) -> str | None:
        if self._folder is None:
            return None
        path = self._path(name, "pub")
        return read_public(path) if path.exists() else None

    def _path(self, name: str, kind: str) -> Path:
        if not re.fullmatch(NAME_PATTERN, name):
            raise InputError(f"{name!r}: a name has lower-case letters, digits and hyphens, at most 40")
        if self._folder is None:
            raise InputError(f"{name}: a simulation registers nobody")
        return self._folder / f"{name}.{kind}"

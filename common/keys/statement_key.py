"""An organization's signatures: Ed25519 (RFC 8032, https://www.rfc-editor.org/rfc/rfc8032) over canonical bytes.

The signed bytes start with a line that names their type, so that a signature cannot be reused for another type.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import InputError
from common.keys.files import fingerprint, openssh_line, read_private, read_public_line, write_private


class StatementKey:
    """An organization's private key for ledger heads and statements; it never leaves the vault."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> StatementKey:
        """Generate a key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> StatementKey:
        """Read the key from a file.

        Raises:
            InputError: the file does not exist, is not such a key, or can be read by others.
        """
        key = read_private(path)
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(f"{path}: not an Ed25519 key; create one with: sotto client keys {path.parent}")
        return cls(key)

    def write(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read."""
        write_private(path, self._key, serialization.PrivateFormat.PKCS8)

    @property
    def public(self) -> str:
        """The public half, as 64 hexadecimal digits."""
        return _hex(self._key.public_key())

    def sign(self, message: bytes) -> str:
        """Sign a message. Returns 128 hexadecimal digits."""
        return self._key.sign(message).hex()


def is_signed(message: bytes, signature: str, public: str) -> bool:
    """Whether the private half of a public key made a signature over a message.

    Signature and key must be lower-case hexadecimal digits: other spellings are not accepted.

    >>> key = StatementKey.generate()
    >>> signature = key.sign(b"message")
    >>> is_signed(b"message", signature, key.public), is_signed(b"another", signature, key.public)
    (True, False)
    """
    if not (re.fullmatch("[0-9a-f]{64}", public) and re.fullmatch("[0-9a-f]{128}", signature)):
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def signable(kind: str, values: dict[str, Any]) -> bytes:
    """The bytes to sign for a table of values: a line with their type, then JSON with sorted keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"sotto {kind}\n{text}".encode()


def public_line(public: str, name: str) -> str:
    """Format a public key as a line in OpenSSH format."""
    return openssh_line(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)), name)


def key_fingerprint(public: str) -> str:
    """The fingerprint of a public key, as `ssh-keygen -lf NAME.pub` prints it; empty if it is not a key."""
    try:
        return fingerprint(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except ValueError:
        return ""


def read_public(path: Path) -> str:
    """Read a public key from a file with one OpenSSH line. Returns 64 hexadecimal digits.

    Raises:
        InputError: the file does not exist or is not an Ed25519 public key.
    """
    key = read_public_line(path)
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: not an Ed25519 public key; statements are signed with Ed25519")
    return _hex(key)


def read_keys(folder: Path) -> dict[str, str]:
    """Read every file NAME.pub in a folder: organization → its public key.

    Raises:
        InputError: a file is not an Ed25519 public key.
    """
    return {path.stem: read_public(path) for path in sorted(folder.glob("*.pub"))}


def _hex(key: Ed25519PublicKey) -> str:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()

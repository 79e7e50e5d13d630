"""Key files: private keys that only their owner may read, public keys as a line in OpenSSH format."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import InputError

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey


def write_private(path: Path, key: PrivateKey, form: serialization.PrivateFormat) -> None:
    """Write a private key to a new file that only its owner can read.

    Raises:
        FileExistsError: the file exists; it is not changed.
        OSError: it cannot be written.
    """
    write_new(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), 0o600)


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a new file.

    Raises:
        FileExistsError: the file exists; it is not changed.
        OSError: it cannot be written.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def read_private(path: Path) -> object:
    """Read a private key of any type.

    Raises:
        InputError: the file does not exist, is not a private key, or can be read by others.
    """
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode & 0o077
        openssh = b"OPENSSH" in data[:40]
        load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
        key = load(data, password=None)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no key; create it with: sotto client keys {path.parent}") from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not a private key: {error}") from None
    if mode:
        raise InputError(f"{path}: others than its owner may read or write it; run: chmod 600 {path}")
    return key


def read_public_line(path: Path) -> object:
    """Read a public key of any type from a file with one OpenSSH line.

    Raises:
        InputError: the file does not exist or is not a public key.
    """
    try:
        return serialization.load_ssh_public_key(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not a public key: {error}") from None


def openssh_line(key: PublicKey, name: str) -> str:
    """Format a public key as a line in OpenSSH format.

    Args:
        key: the public key.
        name: the comment of the line.
    """
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return f"{line} {name}\n"


def fingerprint(key: PublicKey) -> str:
    """The fingerprint of a public key, as `ssh-keygen -lf` prints it."""
    blob = base64.b64decode(openssh_line(key, "").split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")

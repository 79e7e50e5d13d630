"""Key files: private halves that only their owner may read, public halves as a line in the format of OpenSSH."""

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
        FileExistsError: there is such a file; it is left as it is.
        OSError: it cannot be written.
    """
    write_new(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), 0o600)


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that does not exist yet.

    Raises:
        FileExistsError: it does; it is left as it is.
        OSError: it cannot be written.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def read_private(path: Path) -> object:
    """The private key in a file, of whatever kind it is.

    Raises:
        InputError: it is not there, is none, or others may read it.
    """
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode & 0o077
        openssh = b"OPENSSH" in data[:40]
        load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
        key = load(data, password=None)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no key; make it with: sotto client keys {path.parent}") from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not a private key: {error}") from None
    if mode:
        raise InputError(f"{path}: others than its owner may read or write it; run: chmod 600 {path}")
    return key


def read_public_line(path: Path) -> object:
    """The public key in a file of one OpenSSH line, of whatever kind it is.

    Raises:
        InputError: it is not there or is none.
    """
    try:
        return serialization.load_ssh_public_key(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not a public key: {error}") from None


def openssh_line(key: PublicKey, name: str) -> str:
    """A public key as a line in the format of OpenSSH.

    Args:
        key: the public half.
        name: the line's comment.
    """
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return f"{line} {name}\n"


def fingerprint(key: PublicKey) -> str:
    """The fingerprint of a public key, as `ssh-keygen -lf` prints it."""
    blob = base64.b64decode(openssh_line(key, "").split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")

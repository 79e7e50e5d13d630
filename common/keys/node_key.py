"""The node key: with it an organization's relay shows the server who it is, at every request.

An ECDSA key on P-384, as Flower's SuperNode authentication wants it. A request carries the public key, the time,
and a signature over the time, in Flower's own headers; TLS keeps others from reading and repeating them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import InputError
from common.keys.files import fingerprint, openssh_line, read_private, read_public_line, write_private

# Flower's names: flwr.supercore.constant and flwr.common.constant.
PUBLIC_KEY_HEADER = "flwr-public-key"
TIMESTAMP_HEADER = "flwr-timestamp"
SIGNATURE_HEADER = "flwr-signature"
# Sotto's own: the number of the node, on an answer that refuses its sign-on.
NODE_HEADER = "sotto-node"
# Flower accepts a time that is so many seconds old, and so many in the future.
MOST_SECONDS_OLD = 305.0
MOST_SECONDS_AHEAD = 5.0

_LONGEST_HEADER = 2000
_ALGORITHM = ec.ECDSA(hashes.SHA256())


class NotSigned(Exception):
    """A request does not prove which node it is from.

    Attributes:
        reason: "signature" or "clock".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NodePublicKey:
    """The public half of a node key; equal to another with the same numbers."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        if not isinstance(key.curve, ec.SECP384R1):
            raise ValueError(f"its curve is {key.curve.name}, not P-384")
        self._key = key
        self.pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def read(cls, path: Path) -> NodePublicKey:
        """The key in a file of one OpenSSH line.

        Raises:
            InputError: it is not there or is no ECDSA public key on P-384.
        """
        key = read_public_line(path)
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                return cls(key)
        except ValueError:
            pass
        raise InputError(f"{path}: not an ECDSA public key on P-384, as nodes have; `sotto client keys` makes one")

    @classmethod
    def from_pem(cls, pem: bytes) -> NodePublicKey:
        """The key as Flower sends it.

        Raises:
            ValueError: it is none.
        """
        try:
            key = serialization.load_pem_public_key(pem)
        except UnsupportedAlgorithm as error:
            raise ValueError(str(error)) from None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("not an elliptic-curve key")
        return cls(key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodePublicKey) and self.pem == other.pem

    def __hash__(self) -> int:
        return hash(self.pem)

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -lf` prints it."""
        return fingerprint(self._key)

    def line(self, name: str) -> str:
        """A line in the format of OpenSSH."""
        return openssh_line(self._key, name)

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Whether a signature over a message was made with the private half."""
        try:
            self._key.verify(signature, message, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


class NodeKey:
    """An organization's private node key; its relay has it, its vault does not need it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> NodeKey:
        """A new key from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP384R1()))

    @classmethod
    def read(cls, path: Path) -> NodeKey:
        """The key in a file.

        Raises:
            InputError: it is not there, is no such key, or others may read it.
        """
        key = read_private(path)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise InputError(f"{path}: not an ECDSA key on P-384; make one with: sotto client keys {path.parent}")
        return cls(key)

    def write(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read, in the format that Flower reads."""
        write_private(path, self._key, serialization.PrivateFormat.OpenSSH)

    @property
    def public(self) -> NodePublicKey:
        """The public half."""
        return NodePublicKey(self._key.public_key())

    def headers(self) -> dict[str, str]:
        """The headers of a request that is sent now."""
        now = datetime.now(UTC).isoformat()
        return {
            PUBLIC_KEY_HEADER: base64.b64encode(self.public.pem).decode(),
            TIMESTAMP_HEADER: now,
            SIGNATURE_HEADER: base64.b64encode(self._key.sign(now.encode(), _ALGORITHM)).decode(),
        }


def signer(headers: Mapping[str, str]) -> NodePublicKey:
    """The key that signed the headers of a request just now.

    Raises:
        NotSigned: nobody did, or not just now.
    """
    try:
        values = [headers[name] for name in (PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)]
        if max(map(len, values)) > _LONGEST_HEADER:
            raise NotSigned("signature")
        key = NodePublicKey.from_pem(base64.b64decode(values[0], validate=True))
        signed_at = datetime.fromisoformat(values[1])
        age = (datetime.now(UTC) - signed_at).total_seconds()
        signed = key.has_signed(values[1].encode("ascii"), base64.b64decode(values[2], validate=True))
    except (KeyError, ValueError, TypeError, OverflowError, binascii.Error):
        raise NotSigned("signature") from None
    if not signed:
        raise NotSigned("signature")
    if not -MOST_SECONDS_AHEAD < age < MOST_SECONDS_OLD:
        raise NotSigned("clock")
    return key

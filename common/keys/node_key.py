"""The node key, with which an organization's relay authenticates every request to the server.

It is an ECDSA key on P-384, as Flower's SuperNode authentication requires. A request contains the public key, the
time, and a signature over the time, in Flower's own headers; TLS prevents others from reading and replaying them.
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
# Sotto's own header: the id of the node, in a response that refuses its registration.
NODE_HEADER = "sotto-node"
# Flower accepts timestamps up to this many seconds in the past and in the future.
MOST_SECONDS_OLD = 305.0
MOST_SECONDS_AHEAD = 5.0

_LONGEST_HEADER = 2000
_ALGORITHM = ec.ECDSA(hashes.SHA256())


class NotSigned(Exception):
    """A request does not prove which node sent it.

    Attributes:
        reason: "signature" or "clock".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NodePublicKey:
    """The public half of a node key; comparable by value."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        if not isinstance(key.curve, ec.SECP384R1):
            raise ValueError(f"its curve is {key.curve.name}, not P-384")
        self._key = key
        self.pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def read(cls, path: Path) -> NodePublicKey:
        """Read the key from a file with one OpenSSH line.

        Raises:
            InputError: the file does not exist or is not an ECDSA public key on P-384.
        """
        key = read_public_line(path)
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                return cls(key)
        except ValueError:
            pass
        raise InputError(
            f"{path}: not an ECDSA public key on P-384, as node keys are; `sotto client keys` creates one"
        )

    @classmethod
    def from_pem(cls, pem: bytes) -> NodePublicKey:
        """Parse the key as Flower sends it.

        Raises:
            ValueError: it is not an elliptic-curve key on P-384.
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
        """The fingerprint, as `ssh-keygen -lf` prints it."""
        return fingerprint(self._key)

    def line(self, name: str) -> str:
        """The key as a line in OpenSSH format."""
        return openssh_line(self._key, name)

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Whether the private half made a signature over a message."""
        try:
            self._key.verify(signature, message, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


class NodeKey:
    """An organization's private node key. Its relay has it; its vault does not need it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> NodeKey:
        """Generate a key from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP384R1()))

    @classmethod
    def read(cls, path: Path) -> NodeKey:
        """Read the key from a file.

        Raises:
            InputError: the file does not exist, is not such a key, or can be read by others.
        """
        key = read_private(path)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise InputError(
                f"{path}: not an ECDSA key on P-384; create one with: sotto client keys {path.parent}"
            )
        return cls(key)

    def write(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read, in the format that Flower reads."""
        write_private(path, self._key, serialization.PrivateFormat.OpenSSH)

    @property
    def public(self) -> NodePublicKey:
        """The public half."""
        return NodePublicKey(self._key.public_key())

    def headers(self) -> dict[str, str]:
        """The authentication headers of a request that is sent now."""
        now = datetime.now(UTC).isoformat()
        return {
            PUBLIC_KEY_HEADER: base64.b64encode(self.public.pem).decode(),
            TIMESTAMP_HEADER: now,
            SIGNATURE_HEADER: base64.b64encode(self._key.sign(now.encode(), _ALGORITHM)).decode(),
        }


def signer(headers: Mapping[str, str]) -> NodePublicKey:
    """Verify the headers of a request and return the key that signed them.

    Raises:
        NotSigned: the signature is not valid, or its time is too far from now.
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

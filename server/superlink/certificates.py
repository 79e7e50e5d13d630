"""`sotto server certs`: the federation's own certification authority, and the server's certificate from it.

Organizations trust this authority (`ca.pem`) and no other. Its key signs future server certificates; it is not
needed to run the server and should be stored elsewhere. The profile is that of RFC 5280, section 4.2
(https://www.rfc-editor.org/rfc/rfc5280#section-4.2).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputError
from common.keys.files import read_private, write_new, write_private

_CA_DAYS = 3650
# The maximum that browsers accept from private authorities, and enough for a yearly renewal.
_SERVER_DAYS = 397
# Tolerance for clocks that are slow.
_BACKDATE = timedelta(hours=1)
_HOST_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.IGNORECASE)

CA, CA_KEY, SERVER, SERVER_KEY = "ca.pem", "ca.key", "server.pem", "server.key"


def make_certificates(folder: Path, hosts: Sequence[str]) -> list[Path]:
    """Create the authority, unless the folder has one, and a server certificate; nothing is ever overwritten.

    Args:
        folder: for `ca.pem`, `ca.key`, `server.pem` and `server.key`; only their owner can read the keys.
        hosts: all host names and addresses under which organizations reach the server.

    Returns:
        The created files.

    Raises:
        InputError: a host is invalid, a server certificate exists already, or the folder cannot be written.
    """
    names = [_general_name(host) for host in hosts]
    if not names:
        raise InputError("--host is missing: the name or address under which organizations reach the server")
    for taken in (folder / SERVER, folder / SERVER_KEY):
        if taken.exists():
            raise InputError(
                f"{taken}: exists already and is not replaced; move {SERVER} and {SERVER_KEY} away for a new "
                "certificate of the same authority"
            )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        exists = (folder / CA).exists() or (folder / CA_KEY).exists()
        authority, signing_key = _read_authority(folder) if exists else _make_authority(folder)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _server_certificate(key.public_key(), names, hosts[0], authority, signing_key)
        write_private(folder / SERVER_KEY, key, serialization.PrivateFormat.PKCS8)
        # Followed by the authority's certificate, as a chain.
        write_new(folder / SERVER, _pem(certificate) + _pem(authority), 0o644)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None
    created = [SERVER, SERVER_KEY] if exists else [CA, CA_KEY, SERVER, SERVER_KEY]
    return [folder / name for name in created]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST_NAME.fullmatch(host) or len(host) > 253:
        raise InputError(
            f"--host {host!r}: it should be a host name or an address, for instance coordinator.example"
        )
    return x509.DNSName(host.lower())


def _make_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sotto federation")])
    public = key.public_key()
    usage = _key_usage(signs_certificates=True)
    certificate = (
        _builder(name, name, public, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(folder / CA_KEY, key, serialization.PrivateFormat.PKCS8)
    write_new(folder / CA, _pem(certificate), 0o644)
    return certificate, key


def _read_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    for name in (CA, CA_KEY):
        if not (folder / name).exists():
            raise InputError(
                f"{folder / name}: is missing; restore it, or create a new authority in another folder"
            )
    try:
        certificate = x509.load_pem_x509_certificate((folder / CA).read_bytes())
    except ValueError as error:
        raise InputError(f"{folder / CA}: not a certificate: {error}") from None
    key = read_private(folder / CA_KEY)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InputError(f"{folder / CA_KEY}: is not the key of {folder / CA}")
    if certificate.not_valid_after_utc <= datetime.now(UTC) + timedelta(days=_SERVER_DAYS):
        raise InputError(
            f"{folder / CA}: expires on {certificate.not_valid_after_utc:%Y-%m-%d}, before a new server "
            "certificate would; create a new authority in another folder and give its ca.pem to the organizations"
        )
    return certificate, key


def _server_certificate(
    public: ec.EllipticCurvePublicKey,
    names: list[x509.GeneralName],
    host: str,
    authority: x509.Certificate,
    signing_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    # Informative only: clients check the alternative names. A common name has at most 64 characters.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    return (
        _builder(subject, authority.subject, public, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(identifier, critical=False)
        .sign(signing_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - _BACKDATE
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

"""Signatures: valid for exactly these bytes, this type and this key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.keys.statement_key import StatementKey, is_signed, public_line, read_public, signable

KEY = StatementKey.generate()


def test_a_signature_equals_that_of_the_rfc() -> None:
    # RFC 8032, section 7.1, test 2.
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert is_signed(b"\x72", signature, public)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = StatementKey(Ed25519PrivateKey.from_private_bytes(seed))
    assert (key.public, key.sign(b"\x72")) == (public, signature)


@settings(deadline=None)
@given(st.binary(max_size=50), st.binary(max_size=50))
def test_a_signature_is_of_its_message_and_its_key_alone(message: bytes, other: bytes) -> None:
    signature = KEY.sign(message)
    assert is_signed(message, signature, KEY.public)
    assert is_signed(other, signature, KEY.public) == (other == message)
    assert not is_signed(message, signature, StatementKey.generate().public)


@settings(deadline=None)
@given(st.text(max_size=140), st.text(max_size=70))
def test_an_invalid_signature_or_key_raises_no_error(signature: str, public: str) -> None:
    assert not is_signed(b"message", signature, KEY.public)
    assert not is_signed(b"message", KEY.sign(b"message"), public) or public == KEY.public


def test_a_signature_of_one_type_is_not_valid_for_another() -> None:
    values = {"number": 1}
    signature = KEY.sign(signable("ledger head", values))
    assert not is_signed(signable("statement", values), signature, KEY.public)


def test_a_key_is_read_back_from_its_private_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        KEY.write(tmp_path / "statement.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "statement.key").stat().st_mode) == 0o600
    assert StatementKey.read(tmp_path / "statement.key").public == KEY.public
    with pytest.raises(FileExistsError):
        KEY.write(tmp_path / "statement.key")


def test_an_invalid_private_key_gives_a_one_line_error(tmp_path: Path) -> None:
    path = tmp_path / "statement.key"
    with pytest.raises(InputError, match="there is no key; create it with: sotto client keys"):
        StatementKey.read(path)
    path.write_bytes(b"no key")
    with pytest.raises(InputError, match="not a private key"):
        StatementKey.read(path)
    other = ec.generate_private_key(ec.SECP384R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(other.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    path.chmod(0o600)
    with pytest.raises(InputError, match="not an Ed25519 key"):
        StatementKey.read(path)


def test_a_private_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    KEY.write(tmp_path / "statement.key")
    (tmp_path / "statement.key").chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        StatementKey.read(tmp_path / "statement.key")


def test_a_public_key_is_read_back_from_its_line(tmp_path: Path) -> None:
    (tmp_path / "statement.pub").write_text(public_line(KEY.public, "st-mary"))
    assert read_public(tmp_path / "statement.pub") == KEY.public
    assert public_line(KEY.public, "st-mary").startswith("ssh-ed25519 ")
    assert public_line(KEY.public, "st-mary").endswith(" st-mary\n")


@pytest.mark.parametrize("content", [b"", b"ssh-ed25519 AAAA", b"\xff\xfe", b"-----BEGIN PRIVATE KEY-----\n"])
def test_an_invalid_public_key_gives_a_one_line_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "statement.pub").write_bytes(content)
    with pytest.raises(InputError, match="not a public key"):
        read_public(tmp_path / "statement.pub")
    with pytest.raises(InputError, match="there is no such file"):
        read_public(tmp_path / "none.pub")

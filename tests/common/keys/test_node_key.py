"""Node keys: the headers authenticate a request's node, and only recently signed headers are accepted."""

from __future__ import annotations

import base64
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes, verify_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.keys import node_key
from common.keys.node_key import NodeKey, NodePublicKey, NotSigned, signer

KEY = NodeKey.generate()
NAMES = [node_key.PUBLIC_KEY_HEADER, node_key.TIMESTAMP_HEADER, node_key.SIGNATURE_HEADER]


def test_the_headers_have_flowers_names() -> None:
    assert NAMES == [FLEET_HTTP_PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER]
    assert TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE == node_key.MOST_SECONDS_OLD
    assert SYSTEM_TIME_TOLERANCE == node_key.MOST_SECONDS_AHEAD
    headers = KEY.headers()
    key, stamp, signature = (headers[name] for name in NAMES)
    theirs = bytes_to_public_key(base64.b64decode(key))
    assert verify_signature(theirs, stamp.encode(), base64.b64decode(signature))
    assert public_key_to_bytes(theirs) == KEY.public.pem


def test_the_signer_of_a_request_is_identified() -> None:
    assert signer(KEY.headers()) == KEY.public
    assert signer(KEY.headers()) != NodeKey.generate().public


def signed_at(moment: datetime, key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    stamp = moment.isoformat()
    signature = key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
    values = [base64.b64encode(pem).decode(), stamp, base64.b64encode(signature).decode()]
    return dict(zip(NAMES, values, strict=True))


@pytest.mark.parametrize(
    ("seconds", "taken"), [(-290, True), (-320, False), (3, True), (20, False), (-1e9, False)]
)
def test_only_a_recent_request_is_accepted(seconds: float, taken: bool) -> None:
    headers = signed_at(datetime.now(UTC) + timedelta(seconds=seconds), ec.generate_private_key(ec.SECP384R1()))
    if taken:
        signer(headers)
    else:
        with pytest.raises(NotSigned, match="clock"):
            signer(headers)


def test_a_key_on_another_curve_is_refused() -> None:
    with pytest.raises(NotSigned, match="signature"):
        signer(signed_at(datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())))


@pytest.mark.parametrize("name", NAMES)
def test_no_header_can_be_missing_or_from_another_request(name: str) -> None:
    headers = KEY.headers()
    with pytest.raises(NotSigned):
        signer({key: value for key, value in headers.items() if key != name})
    with pytest.raises(NotSigned):
        signer({**headers, name: NodeKey.generate().headers()[name]})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NAMES), st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_any_content_of_a_header_is_handled(name: str, value: str) -> None:
    with pytest.raises(NotSigned):
        signer({**KEY.headers(), name: value})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10**6), st.integers(1, 255))
def test_every_changed_byte_is_detected(name: str, place: int, change: int) -> None:
    headers = KEY.headers()
    raw = headers[name].encode() if name == node_key.TIMESTAMP_HEADER else base64.b64decode(headers[name])
    place %= len(raw)
    changed = bytes([*raw[:place], raw[place] ^ change, *raw[place + 1 :]])
    plain = name == node_key.TIMESTAMP_HEADER
    value = changed.decode("latin-1") if plain else base64.b64encode(changed).decode()
    try:
        assert signer({**headers, name: value}) == KEY.public
        # The text around a key in PEM format may change without changing the key.
        assert name == node_key.PUBLIC_KEY_HEADER
    except NotSigned:
        pass


def test_a_key_is_read_back_from_its_files(tmp_path: Path) -> None:
    KEY.write(tmp_path / "node.key")
    assert stat.S_IMODE((tmp_path / "node.key").stat().st_mode) == 0o600
    assert NodeKey.read(tmp_path / "node.key").public == KEY.public
    (tmp_path / "node.pub").write_text(KEY.public.line("st-mary"))
    assert NodePublicKey.read(tmp_path / "node.pub") == KEY.public
    if shutil.which("ssh-keygen"):
        listed = subprocess.run(
            ["ssh-keygen", "-lf", tmp_path / "node.pub"], capture_output=True, text=True, check=True
        ).stdout.split()
        assert listed == ["384", KEY.public.fingerprint, "st-mary", "(ECDSA)"]
    with pytest.raises(FileExistsError):
        KEY.write(tmp_path / "node.key")
    (tmp_path / "node.key").chmod(0o604)
    with pytest.raises(InputError, match="chmod 600"):
        NodeKey.read(tmp_path / "node.key")

"""The federation's own certificates: whom they let a client trust, and what is never overwritten."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from client.relay.gateway_client import tls_context
from common.errors import InputError
from server.superlink.certificates import make_certificates


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs") / "new"
    before = os.umask(0)
    try:
        made = make_certificates(folder, ["coordinator.example", "127.0.0.1", "::1"])
    finally:
        os.umask(before)
    assert [path.name for path in made] == ["ca.pem", "ca.key", "server.pem", "server.key"]
    return folder


def shake_hands(certs: Path, ca: Path, host: str) -> str | None:
    """Why a client that trusts `ca` refuses the server as `host`; None if it does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "server.pem", certs / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with socket.create_connection(listening.getsockname()[:2]) as plain:
                tls_context(ca).wrap_socket(plain, server_hostname=host).close()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        finally:
            thread.join()
    return None


@pytest.mark.parametrize("host", ["coordinator.example", "127.0.0.1", "::1"])
def test_the_server_is_trusted_under_each_of_its_names(certs: Path, host: str) -> None:
    assert shake_hands(certs, certs / "ca.pem", host) is None


@pytest.mark.parametrize("host", ["other.example", "example", "x.coordinator.example", "127.0.0.2"])
def test_it_is_trusted_under_no_other(certs: Path, host: str) -> None:
    assert "mismatch" in (shake_hands(certs, certs / "ca.pem", host) or "")


def test_another_authority_is_not_trusted(certs: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path, ["coordinator.example"])
    assert "certificate" in (shake_hands(certs, tmp_path / "ca.pem", "coordinator.example") or "")


def test_keys_are_their_owners_alone_and_certificates_everybodys(certs: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in certs.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "server.pem": 0o644, "server.key": 0o600}
    assert stat.S_IMODE(certs.stat().st_mode) == 0o700


def test_certificates_hold_for_a_sane_time_and_purpose(certs: Path) -> None:
    chain = x509.load_pem_x509_certificates((certs / "server.pem").read_bytes())
    (authority,) = x509.load_pem_x509_certificates((certs / "ca.pem").read_bytes())
    server = chain[0]
    assert chain[1] == authority
    now = datetime.now(UTC)
    for certificate, days in ((server, 397), (authority, 3650)):
        assert certificate.not_valid_before_utc < now
        assert timedelta(days=days - 1) < certificate.not_valid_after_utc - now < timedelta(days=days)
    constraints = server.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (limits.ca, limits.path_length) == (True, 0)
    if shutil.which("openssl"):
        strict = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver"]
        strict += ["-CAfile", str(certs / "ca.pem"), str(certs / "server.pem")]
        subprocess.run(strict, check=True, capture_output=True)


def test_nothing_is_overwritten(certs: Path) -> None:
    before = {path: path.read_bytes() for path in certs.iterdir()}
    with pytest.raises(InputError, match=r"server\.pem: exists already and is not replaced"):
        make_certificates(certs, ["coordinator.example"])
    assert {path: path.read_bytes() for path in certs.iterdir()} == before


def test_a_new_server_certificate_comes_from_the_same_authority(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["old.example"])
    authority = (tmp_path / "ca.pem").read_bytes()
    for name in ("server.pem", "server.key"):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    made = make_certificates(tmp_path, ["new.example"])
    assert [path.name for path in made] == ["server.pem", "server.key"]
    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert shake_hands(tmp_path, tmp_path / "ca.pem", "new.example") is None


def test_half_an_authority_is_not_made_whole(tmp_path: Path) -> None:
    make_certificates(tmp_path / "one", ["a.example"])
    make_certificates(tmp_path / "two", ["a.example"])
    for name in ("server.pem", "server.key"):
        (tmp_path / "one" / name).unlink()
    kept = (tmp_path / "one" / "ca.key").read_bytes()
    (tmp_path / "one" / "ca.key").unlink()
    with pytest.raises(InputError, match=r"ca\.key: is missing"):
        make_certificates(tmp_path / "one", ["a.example"])
    shutil.copy(tmp_path / "two" / "ca.key", tmp_path / "one" / "ca.key")
    with pytest.raises(InputError, match=r"is not the key of .*ca\.pem"):
        make_certificates(tmp_path / "one", ["a.example"])
    (tmp_path / "one" / "ca.key").write_bytes(kept)
    assert len(make_certificates(tmp_path / "one", ["a.example"])) == 2


@pytest.mark.parametrize("host", ["", "a b", "http://a.example", "a.example:8443", "-a", "*.example", "ä.example"])
def test_what_is_no_host_is_one_line_and_nothing_is_made(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match=r"--host .*: it should be a host name or an address"):
        make_certificates(tmp_path / "certs", ["good.example", host])
    assert not (tmp_path / "certs").exists()


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_a_host_or_an_input_error(tmp_path_factory: pytest.TempPathFactory, host: str) -> None:
    folder = tmp_path_factory.mktemp("any") / "certs"
    try:
        make_certificates(folder, [host])
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        assert not folder.exists()

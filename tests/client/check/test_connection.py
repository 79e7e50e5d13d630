"""`sotto client check --relay` against a real gateway and a real vault, with each possible mistake."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import sotto
from client.admin.keys import make_keys
from client.check.connection import check_clock, check_relay
from client.check.findings import Finding
from client.relay.settings import Relay
from client.vault.policy.organization import Organization
from common.keys.node_key import NodeKey
from common.keys.statement_key import StatementKey
from common.system.network import Address, free_port
from server.registry.registry import Registry
from server.superlink.certificates import make_certificates
from tests.client.vaults import Echo, open_vault, served
from tests.server.superlink.gateways import gateway_process


@dataclass
class Site:
    """A gateway with one registered organization."""

    folder: Path
    address: Address
    registry: Registry

    def keys(self, name: str, registered: str = "") -> Path:
        """Create keys, and register them if a name is given."""
        folder = self.folder / name
        make_keys(folder, name)
        if registered:
            self.registry.register(registered, folder / "node.pub", folder / "statement.pub")
        return folder / "node.key"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("gateway")
    make_certificates(folder / "certs", ["127.0.0.1"])
    registry = Registry(folder / "organizations")
    with gateway_process(folder, registry, Address("127.0.0.1", free_port())) as (address, _):
        site = Site(folder, address, registry)
        site.keys("st-mary", "st-mary")
        yield site


def write_relay(path: Path, site: Site, **keys: Any) -> Path:
    """Write a relay's file; keyword arguments replace its settings."""
    values = {
        "name": "st-mary",
        "server": str(site.address),
        "ca": str(site.folder / "certs" / "ca.pem"),
        "node_key": str(site.folder / "st-mary" / "node.key"),
    }
    file = path.parent / "relay.toml"
    file.write_text(tomli_w.dumps(values | keys))
    return file


def run_checks(path: Path, site: Site, **keys: Any) -> dict[str, Finding]:
    relay = Relay.read(write_relay(path, site, **keys))
    findings = list(check_relay(Organization.read(path), relay))
    assert len({finding.name for finding in findings}) == len(findings)
    assert all("\n" not in finding.text for finding in findings)
    return {finding.name: finding for finding in findings}


def problems(findings: dict[str, Finding]) -> dict[str, str]:
    """The findings that are not ok, except that no vault is running."""
    not_ok = [finding for finding in findings.values() if finding.state != "ok"]
    return {finding.name: finding.state for finding in not_ok if finding.name != "vault"}


def test_with_vault_and_server_there_nothing_is_wrong(
    path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    relay = write_relay(path, site)
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    command = ["sotto", "client", "check", str(path), "--relay", str(relay), "--json"]
    monkeypatch.setattr(sys, "argv", command)
    with served(open_vault(path), path.parent / "vault.sock"), pytest.raises(SystemExit) as ended:
        sotto.main()
    assert ended.value.code == 0
    output, errors = capfd.readouterr()
    values = json.loads(output)
    assert errors == ""
    assert values["ok"] is True
    assert {one["state"] for one in values["checks"]} == {"ok"}
    texts = {one["name"]: one["text"] for one in values["checks"] if one["group"] == "connection"}
    assert list(texts) == ["socket", "relay", "vault", "ca", "node key", "server", "clock"]
    assert texts["server"] == f"{site.address}: TLS verified; the key is registered as 'st-mary'"
    assert NodeKey.read(site.folder / "st-mary" / "node.key").public.fingerprint in texts["node key"]
    (path.parent / "ledger.db").unlink()  # the vault made it
    assert {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()} == before


def test_a_vault_that_is_not_there_is_a_warning_and_anothers_is_wrong(path: Path, site: Site) -> None:
    missing = run_checks(path, site)["vault"]
    assert missing.state == "warning"
    assert "start it with: sotto vault start" in missing.text
    with served(Echo(), path.parent / "vault.sock"):
        other = run_checks(path, site)["vault"]
    assert other.state == "wrong"
    assert "belongs to 'echo'; it should belong to 'st-mary'" in other.text


def test_a_server_that_is_not_there_is_wrong(path: Path, site: Site) -> None:
    findings = run_checks(path, site, server=f"127.0.0.1:{free_port()}")
    assert problems(findings) == {"server": "wrong"}
    assert "no server answers" in findings["server"].text
    assert "clock" not in findings


def test_a_key_that_the_server_does_not_know_is_wrong(path: Path, site: Site) -> None:
    findings = run_checks(path, site, node_key=str(site.keys("stranger")))
    assert problems(findings) == {"server": "wrong"}
    assert "does not know the key SHA256:" in findings["server"].text
    key = site.keys("left", "left")
    site.registry.revoke("left")
    findings = run_checks(path, site, node_key=str(key))
    assert problems(findings) == {"server": "wrong"}
    assert "has revoked the key SHA256:" in findings["server"].text


def test_a_key_that_is_another_organizations_is_wrong(path: Path, site: Site) -> None:
    findings = run_checks(path, site, node_key=str(site.keys("clinic", "clinic")))
    assert problems(findings) == {"server": "wrong"}
    assert "as 'clinic'; it should be 'st-mary'" in findings["server"].text


def test_tls_that_does_not_hold_is_wrong(path: Path, site: Site, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other", ["127.0.0.1"])
    findings = run_checks(path, site, ca=str(tmp_path / "other" / "ca.pem"))
    assert problems(findings) == {"server": "wrong"}
    assert "its certificate is not valid" in findings["server"].text
    # The certificate is for 127.0.0.1 alone.
    findings = run_checks(path, site, server=f"localhost:{site.address.port}")
    assert problems(findings) == {"server": "wrong"}
    assert "its certificate is not valid" in findings["server"].text


def write_authority(path: Path, begins: timedelta, ends: timedelta) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now + begins).not_valid_after(now + ends)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize(
    ("begins", "ends", "state", "message"),
    [
        (-10, 31, "ok", "valid until"),
        (-10, 29.5, "warning", "in 29 days"),
        (-10, -1, "wrong", "expired on"),
        (1, 100, "wrong", "not valid before"),
    ],
)
def test_the_authoritys_dates_are_looked_at(
    path: Path, site: Site, tmp_path: Path, begins: float, ends: float, state: str, message: str
) -> None:
    write_authority(tmp_path / "ca.pem", timedelta(days=begins), timedelta(days=ends))
    finding = run_checks(path, site, ca=str(tmp_path / "ca.pem"))["ca"]
    assert finding.state == state
    assert message in finding.text


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), (b"no PEM", "not a certificate")])
def test_an_authority_that_is_none_is_wrong_and_the_server_is_not_asked(
    path: Path, site: Site, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    findings = run_checks(path, site, ca=str(tmp_path / "ca.pem"))
    assert problems(findings) == {"ca": "wrong"}
    assert message in findings["ca"].text
    assert "server" not in findings


def open_to_all(key: Path) -> None:
    key.chmod(0o644)


def a_statement_key(key: Path) -> None:
    key.unlink()
    StatementKey.generate().write(key)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "there is no key"),
        (open_to_all, "run: chmod 600"),
        (a_statement_key, "not an ECDSA key on P-384"),
    ],
)
def test_a_node_key_that_cannot_be_used_is_wrong(
    path: Path, site: Site, damage: Callable[[Path], None], message: str
) -> None:
    key = path.parent / "node.key"
    NodeKey.generate().write(key)
    damage(key)
    findings = run_checks(path, site, node_key=str(key))
    assert problems(findings) == {"node key": "wrong"}
    assert message in findings["node key"].text


def test_files_that_do_not_belong_together_are_noticed(path: Path, site: Site) -> None:
    findings = run_checks(path, site, name="st-marry")
    assert problems(findings) == {"relay": "wrong"}
    assert "name = 'st-marry' in the relay's file; organization.toml has 'st-mary'" in findings["relay"].text
    assert problems(run_checks(path, site, socket="other.sock")) == {"relay": "warning"}
    (path.parent / "link").symlink_to(path.parent)
    assert problems(run_checks(path, site, socket="link/vault.sock")) == {}
    assert problems(run_checks(path, site, socket="s" * 108)) == {"relay": "wrong"}


def test_without_tls_the_server_is_only_looked_for(path: Path, site: Site) -> None:
    findings = run_checks(path, site, insecure=True)
    assert problems(findings) == {"server": "warning"}
    assert "node key" not in findings
    assert problems(run_checks(path, site, insecure=True, server=f"127.0.0.1:{free_port()}")) == {
        "server": "wrong"
    }


@pytest.mark.parametrize(
    ("ahead", "state"),
    [(0, "ok"), (59, "ok"), (61, "warning"), (299, "warning"), (301, "wrong"), (-2, "ok"), (-3, "warning")],
)
def test_clocks_may_differ_a_little(ahead: float, state: str) -> None:
    finding = check_clock(ahead)
    assert finding.state == state
    assert f"{abs(ahead):.1f} s {'ahead of' if ahead >= 0 else 'behind'} this one" in finding.text


def test_a_relay_file_that_cannot_be_read_is_exit_code_2(
    path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    relay = write_relay(path, site, servr="x")
    monkeypatch.setattr(sys, "argv", ["sotto", "client", "check", str(path), "--relay", str(relay)])
    with pytest.raises(SystemExit) as ended:
        sotto.main()
    assert ended.value.code == 2
    assert "did you mean 'server'?" in capfd.readouterr().err

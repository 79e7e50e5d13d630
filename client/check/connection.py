"""Whether relay and vault use the same socket, and the relay can reach the server; needs the relay's libraries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from client.check.findings import Finding, Findings, Group
from client.relay.gateway_client import Registration, ask_gateway
from client.relay.vault_client import vault_name
from client.vault.policy.organization import Organization
from common.errors import InputError, SottoError
from common.keys.node_key import MOST_SECONDS_AHEAD, NodeKey

if TYPE_CHECKING:
    from client.relay.settings import Relay

_GROUP = Group("connection")
_SOON = timedelta(days=30)
# Difference between the clocks in seconds: from when on to warn, and from when on it is wrong.
_WARN_SECONDS, _MAX_SECONDS = 60.0, 300.0


def check_relay(organization: Organization, relay: Relay) -> Findings[None]:
    """Check what the relay's settings refer to, and connect to vault and server as the relay would."""
    yield from _GROUP.run("relay", _settings(organization, relay))
    yield from _GROUP.run("vault", _vault(organization, relay))
    if relay.insecure:
        yield from _GROUP.run("server", _insecure_server(relay))
        return
    ca = yield from _GROUP.run("ca", _ca(relay.path(relay.ca)))
    key = yield from _GROUP.run("node key", _node_key(relay.path(relay.node_key)))
    if ca and key:
        registration = yield from _GROUP.run("server", _server(organization, relay))
        if registration is not None:
            yield check_clock(registration.clock_offset)


def _settings(organization: Organization, relay: Relay) -> Findings[None]:
    if relay.name != organization.name:
        raise InputError(f"name = {relay.name!r} in the relay's file; organization.toml has {organization.name!r}")
    vault_socket = organization.path(organization.vault.socket)
    if relay.vault_socket.resolve() != vault_socket.resolve():
        yield _GROUP.warning(
            "relay",
            f"socket = {relay.vault_socket}, but the vault's is {vault_socket}; right only with a container mount",
        )
    else:
        yield _GROUP.ok("relay", "its file has the organization's name and the vault's socket")


def _vault(organization: Organization, relay: Relay) -> Findings[None]:
    name = vault_name(relay.vault_socket)
    if name is None:
        yield _GROUP.warning(
            "vault",
            f"no vault answers at {relay.vault_socket}; start it with: sotto vault start ORGANIZATION.toml",
        )
    elif name != organization.name:
        yield _GROUP.wrong(
            "vault",
            f"the vault at {relay.vault_socket} belongs to {name!r}; it should belong to {organization.name!r}",
        )
    else:
        yield _GROUP.ok("vault", f"answers at {relay.vault_socket}")


def _ca(path: Path) -> Findings[bool]:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the coordinator provides it as ca.pem") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a certificate in PEM format: {error}") from None
    now = datetime.now(UTC)
    begins = max(certificate.not_valid_before_utc for certificate in certificates)
    ends = min(certificate.not_valid_after_utc for certificate in certificates)
    ask = "ask the coordinator for a new ca.pem"
    if begins > now:
        yield _GROUP.wrong("ca", f"{path}: not valid before {begins:%Y-%m-%d %H:%M} UTC; set the clock, or {ask}")
    elif ends < now:
        yield _GROUP.wrong("ca", f"{path}: expired on {ends:%Y-%m-%d}; {ask}")
    elif ends - now < _SOON:
        yield _GROUP.warning("ca", f"{path}: expires on {ends:%Y-%m-%d}, in {(ends - now).days} days; {ask}")
    else:
        yield _GROUP.ok("ca", f"{path}: valid until {ends:%Y-%m-%d}")
    return True


def _node_key(path: Path) -> Findings[bool]:
    key = NodeKey.read(path)
    yield _GROUP.ok("node key", f"{path}, accessible to its owner only; fingerprint {key.public.fingerprint}")
    return True


def _server(organization: Organization, relay: Relay) -> Findings[Registration]:
    registration = ask_gateway(relay.server_address, relay.path(relay.ca), relay.path(relay.node_key))
    if registration.organization != organization.name:
        raise InputError(
            f"the node key is registered at {relay.server_address} as {registration.organization!r}; it should be "
            f"{organization.name!r}: use the other node key, or ask the coordinator"
        )
    yield _GROUP.ok(
        "server", f"{relay.server_address}: TLS verified; the key is registered as {registration.organization!r}"
    )
    return registration


def check_clock(ahead: float) -> Finding:
    """Compare the clocks of this machine and the server.

    Args:
        ahead: seconds by which the server's clock is ahead; it rejects requests from its future.
    """
    text = f"the server's clock is {abs(ahead):.1f} s {'ahead of' if ahead >= 0 else 'behind'} this one"
    if abs(ahead) >= _MAX_SECONDS:
        return _GROUP.wrong("clock", f"{text}; set the clock")
    if ahead >= _WARN_SECONDS:
        return _GROUP.warning(
            "clock", f"{text}; from {_MAX_SECONDS:g} s on it rejects every request: set the clock"
        )
    if ahead <= -MOST_SECONDS_AHEAD / 2:
        return _GROUP.warning(
            "clock", f"{text}; from {MOST_SECONDS_AHEAD:g} s on it rejects every request: set the clock"
        )
    return _GROUP.ok("clock", text)


def _insecure_server(relay: Relay) -> Findings[None]:
    address = relay.server_address
    if not address.is_open():
        raise SottoError(f"no server answers at {address}")
    yield _GROUP.warning("server", f"{address} answers; without TLS and node key, for tests only")

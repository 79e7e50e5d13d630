"""Whether relay and vault meet at the socket, and the relay can reach the server; needs the relay's libraries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from client.check.findings import Check, Checks, Group
from client.relay.gateway_client import Welcome, ask_gateway
from client.relay.vault_client import vault_name
from client.vault.policy.organization import Organization
from common.errors import InputError, SottoError
from common.keys.node_key import MOST_SECONDS_AHEAD, NodeKey

if TYPE_CHECKING:
    from client.relay.settings import Relay

_GROUP = Group("connection")
_SOON = timedelta(days=30)
# Seconds between the clocks: that somebody should look at, and that are wrong whatever the server says.
_APART, _FAR_APART = 60.0, 300.0


def check_relay(organization: Organization, relay: Relay) -> Checks[None]:
    """Look at what the relay's file names, and ask vault and server as the relay would."""
    yield from _GROUP.look("relay", _same(organization, relay))
    yield from _GROUP.look("vault", _vault(organization, relay))
    if relay.insecure:
        yield from _GROUP.look("server", _server_without_tls(relay))
        return
    authority = yield from _GROUP.look("ca", _authority(relay.path(relay.ca)))
    key = yield from _GROUP.look("node key", _node_key(relay.path(relay.node_key)))
    if authority and key:
        welcome = yield from _GROUP.look("server", _server(organization, relay))
        if welcome is not None:
            yield clock_check(welcome.clock)


def _same(organization: Organization, relay: Relay) -> Checks[None]:
    if relay.name != organization.name:
        raise InputError(f"name = {relay.name!r} in its file, {organization.name!r} in the organization's")
    own = organization.path(organization.vault.socket)
    if relay.vault_socket.resolve() != own.resolve():
        yield _GROUP.warning(
            "relay",
            f"socket = {relay.vault_socket}, but the vault's is {own}; right only if a container renames it",
        )
    else:
        yield _GROUP.ok("relay", "its file names the organization and the vault's socket")


def _vault(organization: Organization, relay: Relay) -> Checks[None]:
    name = vault_name(relay.vault_socket)
    if name is None:
        yield _GROUP.warning(
            "vault", f"none answers at {relay.vault_socket}; start it with: sotto vault start ORGANIZATION.toml"
        )
    elif name != organization.name:
        yield _GROUP.wrong("vault", f"the one that answers at {relay.vault_socket} is of {name!r}")
    else:
        yield _GROUP.ok("vault", f"answers at {relay.vault_socket}")


def _authority(path: Path) -> Checks[bool]:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; the coordinator has it: ca.pem") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a certificate in PEM format: {error}") from None
    now = datetime.now(UTC)
    begins = max(one.not_valid_before_utc for one in certificates)
    ends = min(one.not_valid_after_utc for one in certificates)
    ask = "ask the coordinator for a new ca.pem"
    if begins > now:
        yield _GROUP.wrong("ca", f"{path}: is valid from {begins:%Y-%m-%d %H:%M} UTC on; set the clock, or {ask}")
    elif ends < now:
        yield _GROUP.wrong("ca", f"{path}: expired on {ends:%Y-%m-%d}; {ask}")
    elif ends - now < _SOON:
        yield _GROUP.warning("ca", f"{path}: expires on {ends:%Y-%m-%d}, in {(ends - now).days} days; {ask}")
    else:
        yield _GROUP.ok("ca", f"{path}: valid until {ends:%Y-%m-%d}")
    return True


def _node_key(path: Path) -> Checks[bool]:
    key = NodeKey.read(path)
    yield _GROUP.ok("node key", f"{path}, for its owner alone; its fingerprint is {key.public.fingerprint}")
    return True


def _server(organization: Organization, relay: Relay) -> Checks[Welcome]:
    welcome = ask_gateway(relay.server_address, relay.path(relay.ca), relay.path(relay.node_key))
    if welcome.organization != organization.name:
        raise InputError(
            f"{relay.server_address} knows the node key as {welcome.organization!r}; it should be "
            f"{organization.name!r}: take the other node key, or ask the coordinator"
        )
    yield _GROUP.ok(
        "server", f"{relay.server_address}: TLS holds, and it knows the key as {welcome.organization!r}"
    )
    return welcome


def clock_check(ahead: float) -> Check:
    """How far the clocks are apart.

    Args:
        ahead: seconds by which the server's clock is ahead; it takes nothing from its future.
    """
    text = f"the server's clock is {abs(ahead):.1f} s {'ahead of' if ahead >= 0 else 'behind'} this one"
    if abs(ahead) >= _FAR_APART:
        return _GROUP.wrong("clock", f"{text}; set it")
    if ahead >= _APART:
        return _GROUP.warning("clock", f"{text}; at {_FAR_APART:g} s it refuses everything: set it")
    if ahead <= -MOST_SECONDS_AHEAD / 2:
        return _GROUP.warning("clock", f"{text}; from {MOST_SECONDS_AHEAD:g} s on it refuses everything: set it")
    return _GROUP.ok("clock", text)


def _server_without_tls(relay: Relay) -> Checks[None]:
    address = relay.server_address
    if not address.is_open():
        raise SottoError(f"no server answers at {address}")
    yield _GROUP.warning("server", f"{address} answers; without TLS and node key, to try things out only")

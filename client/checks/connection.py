"""Whether the relay and the vault can meet at the socket, and the relay can reach the server."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from client.checks import Check, Checks, Group
from client.door import Welcome, ask_door
from client.organization import Organization
from client.remote import vault_name
from client.service import group_number
from client.wire import check_socket_path
from common.errors import InputError, SottoError
from common.node_key import MOST_SECONDS_AHEAD, NodeKey

if TYPE_CHECKING:
    from client.supernode import Relay

_GROUP = Group("connection")
_SOON = timedelta(days=30)
# Seconds between the clocks: that somebody should look at, and that are wrong whatever the server says.
_APART, _FAR_APART = 60.0, 300.0


def check_socket(organization: Organization) -> Checks[None]:
    """Look at the socket's path, folder and group. Nothing is made."""
    yield from _GROUP.look("socket", _socket(organization))
    if organization.vault.group is not None:
        yield from _GROUP.look("socket's group", _group(organization, organization.vault.group))


def _socket(organization: Organization) -> Checks[None]:
    path = check_socket_path(organization.path(organization.vault.socket))
    folder = path.parent
    if not folder.exists():
        yield _GROUP.ok("socket", f"{path}; its folder is not there yet, the vault makes it for its own user")
        return
    if path.exists() and not path.is_socket():
        raise InputError(f"vault.socket = {path}: is a file; it should be a new path")
    status = folder.stat()
    if status.st_mode & 0o002:
        yield _GROUP.wrong(
            "socket", f"every user may write {folder} and put a socket there; run: chmod o-w {folder}"
        )
    elif status.st_mode & 0o020 and status.st_gid != _own_group(status.st_uid):
        yield _GROUP.warning(
            "socket", f"a whole group may write {folder} and put a socket there; run: chmod g-w {folder}"
        )
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield _GROUP.wrong("socket", f"this user may not write {folder}; the vault has to")
    else:
        yield _GROUP.ok("socket", str(path))


def _own_group(user: int) -> int | None:
    """The group that many systems give to each user alone."""
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return None


def _group(organization: Organization, name: str) -> Checks[None]:
    number = group_number(name)
    if os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        yield _GROUP.wrong(
            "socket's group", f"this user is not in the group {name!r} and cannot let it in; add the user to it"
        )
        return
    folder = organization.path(organization.vault.socket).parent
    if folder.exists() and not _may_pass(folder, number):
        yield _GROUP.wrong(
            "socket's group",
            f"the group {name!r} may not pass through {folder}; run: chgrp {name} {folder} && chmod g+x {folder}",
        )
        return
    yield _GROUP.ok("socket's group", f"{name!r} may connect")


def _may_pass(folder: Path, group: int | None) -> bool:
    status = folder.stat()
    return bool(status.st_mode & (0o010 if status.st_gid == group else 0o001))


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
    welcome = ask_door(relay.server_address, relay.path(relay.ca), relay.path(relay.node_key))
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

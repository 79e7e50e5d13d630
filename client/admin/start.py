"""`sotto client start`: the vault and the relay of one organization under one user, for convenience."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from client.relay.settings import Relay
from client.vault.policy.organization import Organization
from common.errors import InputError
from common.system.processes import Supervisor


def serve_both(organization: Path, relay: Path, report: Callable[[str], None], *, insecure: bool = False) -> None:
    """Keep both processes running until SIGTERM or SIGINT.

    Args:
        organization: path of organization.toml.
        relay: path of relay.toml.
        report: called with one line when a process starts, ends or is restarted.
        insecure: connect without TLS and node key, overriding the relay's file.

    Raises:
        InputError: the two files do not belong to the same organization and socket.
        ChildFailed: one of the processes cannot run; it has reported the reason.
    """
    vault, node = Organization.read(organization), Relay.read(relay)
    if vault.name != node.name:
        raise InputError(f"{relay}: name = {node.name!r}; it should be {vault.name!r}, as in {organization}")
    if vault.path(vault.vault.socket) != node.vault_socket:
        raise InputError(
            f"{relay}: socket = {node.vault_socket}; it should be {vault.path(vault.vault.socket)}, as in "
            f"{organization}"
        )
    program = [sys.executable, "-P", "-m", "sotto"]
    with Supervisor(report) as supervisor:
        # An input error, such as a key that the server refuses, is permanent: restarting would not help.
        final = frozenset({InputError.exit_code})
        supervisor.start("vault", [*program, "vault", "start", str(organization.absolute())], {}, final=final)
        relay_command = ["supernode", "start", str(relay.absolute()), *(["--insecure"] if insecure else [])]
        supervisor.start("relay", [*program, *relay_command], {}, final=final)
        supervisor.run()

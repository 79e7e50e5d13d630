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
        organization: its file.
        relay: its file.
        report: told in one line what happens to the processes.
        insecure: connect without TLS and node key, whatever the relay's file says.

    Raises:
        InputError: the two files do not belong together.
        ChildFailed: one of the processes cannot run; it has said why.
    """
    vault, node = Organization.read(organization), Relay.read(relay)
    if vault.name != node.name:
        raise InputError(f"{relay}: name = {node.name!r}; it is {vault.name!r} in {organization}")
    if vault.path(vault.vault.socket) != node.vault_socket:
        raise InputError(
            f"{relay}: socket = {node.vault_socket}; it is {vault.path(vault.vault.socket)} in {organization}"
        )
    program = [sys.executable, "-P", "-m", "sotto"]
    with Supervisor(report) as supervisor:
        # Wrong input, a key that the server refuses for instance, stays wrong however often it is tried.
        final = frozenset({InputError.exit_code})
        supervisor.start("vault", [*program, "vault", "start", str(organization.absolute())], {}, final=final)
        relaying = ["supernode", "start", str(relay.absolute()), *(["--insecure"] if insecure else [])]
        supervisor.start("relay", [*program, *relaying], {}, final=final)
        supervisor.run()

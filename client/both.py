"""`sotto client start`: the vault and the relay of one organization under one user, for convenience."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from client.organization import Organization
from client.supernode import Relay
from common.errors import InputError
from common.processes import Supervisor


def serve_both(organization: Path, relay: Path, report: Callable[[str], None]) -> None:
    """Keep both processes running until SIGTERM or SIGINT.

    Args:
        organization: its file.
        relay: its file.
        report: told in one line what happens to the processes.

    Raises:
        InputError: the two files do not belong together.
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
        supervisor.start("vault", [*program, "vault", "start", str(organization.absolute())], {})
        supervisor.start("relay", [*program, "supernode", "start", str(relay.absolute())], {})
        supervisor.run()

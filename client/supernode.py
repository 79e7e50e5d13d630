"""`sotto supernode start`: the side of an organization that has the network and no data."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from client.remote import RemoteVault
from client.runtime import check_version
from client.wire import check_socket_path
from common.errors import InputError, Refused, SottoError
from common.logs import ORGANIZATION_VARIABLE, warn
from common.network import Address, free_port, loopback_address
from common.plan import Name
from common.processes import FLOWER_ENVIRONMENT, Supervisor
from common.settings import SettingsFile

_TRY_SECONDS = 1.0


class Relay(SettingsFile):
    """The relay of one organization, read by the networked side alone. Paths are relative to this file."""

    name: Name = Field(examples=["st-mary"])
    """The organization's name, as in its own file."""
    socket: str = "vault.sock"
    """Where the vault answers."""
    server: str = Field(default="127.0.0.1:8000", examples=["127.0.0.1:8000"])
    """The coordinator's server. This version has no TLS: it must be on this machine."""
    log: str = "relay.log"
    """What Flower's programs write; "-" for the standard output of this program."""
    patience: float = Field(default=60.0, gt=0)
    """Seconds to wait at the start for the vault and for the server."""

    @property
    def vault_socket(self) -> Path:
        """The socket's path, made absolute.

        Raises:
            InputError: it is too long for the system.
        """
        return check_socket_path(self.path(self.socket))

    @property
    def server_address(self) -> Address:
        """The server's address, checked.

        Raises:
            InputError: it is none, or not of this machine.
        """
        return loopback_address(self.server, "server")


def serve_relay(relay: Relay, report: Callable[[str], None]) -> None:
    """Keep a SuperNode and its relay running until SIGTERM or SIGINT.

    Args:
        relay: where the vault and the server are.
        report: told in one line when they run.

    Raises:
        InputError: the vault is another organization's, or an address or path is wrong.
        SottoError: the vault or the server is not there in time.
    """
    check_version()
    server, socket = relay.server_address, relay.vault_socket
    with tempfile.TemporaryDirectory(prefix="sotto-relay-") as home, Supervisor(warn) as supervisor:
        if not _vault_answers(relay, socket, supervisor, report):
            return
        if not supervisor.wait_for(server.is_open, relay.patience):
            if supervisor.told_to_end:
                return
            raise SottoError(f"no server answers at {server}; start it with: sotto server start")
        environment = {
            "FLWR_LOG_LEVEL": "WARNING",
            **FLOWER_ENVIRONMENT,
            "FLWR_HOME": home,
            ORGANIZATION_VARIABLE: relay.name,
        }
        secret = Path(home) / "secret"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32), encoding="ascii")
        port = str(free_port())
        program = [sys.executable, "-P", "-m", "client.runtime"]
        node = [
            *("--insecure", "--superlink", str(server), "--host", "127.0.0.1", "--port", port),
            *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        ]
        log = None if relay.log == "-" else relay.path(relay.log)
        # A SuperNode whose relay died would keep the message for a minute before Flower asks again. Ended in order
        # it signs off, and comes back as a node that gets the message anew. A relay has nothing to do without it.
        node = [*program, "supernode", *node]
        relaying = [*program, "relay", f"127.0.0.1:{port}", str(secret), str(socket)]
        supervisor.start("SuperNode", node, environment, log, takes_along="relay")
        supervisor.start("relay", relaying, environment, log, takes_along="SuperNode")
        report(f"{relay.name}: relays between the server at {server} and the vault at {socket}")
        supervisor.run()


def _vault_answers(relay: Relay, socket: Path, supervisor: Supervisor, report: Callable[[str], None]) -> bool:
    """Whether the vault is there before the time is over; False only if this process is told to end."""
    if _vault_name(socket) is None:
        report(f"{relay.name}: waiting for the vault at {socket}")
        supervisor.wait_for(lambda: _vault_name(socket) is not None, relay.patience)
    if supervisor.told_to_end:
        return False
    name = _vault_name(socket)
    if name is None:
        raise SottoError(f"no vault answers at {socket}; start it with: sotto vault start ORGANIZATION.toml")
    if name != relay.name:
        raise InputError(f"name = {relay.name!r}: the vault at {socket} is the one of {name!r}")
    return True


def _vault_name(socket: Path) -> str | None:
    """Whose vault answers there; None if none does."""
    try:
        with RemoteVault(socket, timeout=_TRY_SECONDS, patience=0) as vault:
            return vault.describe().organization
    except Refused:
        return None

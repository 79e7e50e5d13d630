"""relay.toml: what the networked side of an organization reads. It brings no library of that side along."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from client.channel.framing import check_socket_path
from common.plan.plan import Name
from common.settings import SettingsFile
from common.system.network import Address, any_address, loopback_address


class Relay(SettingsFile):
    """The relay of one organization, read by the networked side alone. Paths are relative to this file."""

    name: Name = Field(examples=["st-mary"])
    """The organization's name, as in its own file."""
    socket: str = "vault.sock"
    """Where the vault answers."""
    server: str = Field(default="127.0.0.1:8443", examples=["coordinator.example:8443"])
    """The coordinator's server. Its certificate must be for this name."""
    ca: str = "certs/ca.pem"
    """The certification authority of the server's certificate; the coordinator gives it to you. No other is
    trusted."""
    node_key: str = "keys/node.key"
    """Shows the server who you are; `sotto client keys` makes it."""
    log: str = "relay.log"
    """What Flower's programs write; "-" for the standard output of this program."""
    patience: float = Field(default=60.0, gt=0)
    """Seconds to wait at the start for the vault and for the server."""
    insecure: bool = False
    """For trying things out on one machine: without TLS and node key."""

    def without_tls(self) -> Relay:
        """The same, but without TLS and keys, as `--insecure` asks."""
        return self.model_copy(update={"insecure": True})

    @property
    def vault_socket(self) -> Path:
        """The socket's path, made absolute.

        Raises:
            InputError: it is too long for the system.
        """
        return check_socket_path(self.path(self.socket))

    @property
    def log_file(self) -> Path | None:
        """The log's path, made absolute; None for standard output."""
        return None if self.log == "-" else self.path(self.log)

    @property
    def server_address(self) -> Address:
        """The server's address, checked.

        Raises:
            InputError: it is none, or without TLS not of this machine.
        """
        if self.insecure:
            return loopback_address(self.server, "server", "without TLS it stays on this machine")
        return any_address(self.server, "server")

"""relay.toml: the settings of the relay. Importing this module imports none of the relay's libraries."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from client.channel.framing import check_socket_path
from common.plan.plan import Name
from common.settings import SettingsFile
from common.system.network import Address, any_address, loopback_address


class Relay(SettingsFile):
    """The relay of one organization, read by the relay only. Paths are relative to this file."""

    name: Name = Field(examples=["st-mary"])
    """The organization's name, as in organization.toml."""
    socket: str = "vault.sock"
    """The vault's socket."""
    server: str = Field(default="127.0.0.1:8443", examples=["coordinator.example:8443"])
    """The coordinator's server. Its certificate must be valid for this name."""
    ca: str = "certs/ca.pem"
    """The certification authority of the server's certificate, provided by the coordinator. No other is
    trusted."""
    node_key: str = "keys/node.key"
    """Authenticates you to the server; created by `sotto client keys`."""
    log: str = "relay.log"
    """The log of Flower's programs; "-" for the standard output of this program."""
    patience: float = Field(default=60.0, gt=0)
    """Seconds to wait for the vault and for the server at startup."""
    insecure: bool = False
    """Connect without TLS and node key, for tests on one machine."""

    def without_tls(self) -> Relay:
        """A copy that connects without TLS and keys, as `--insecure` asks."""
        return self.model_copy(update={"insecure": True})

    @property
    def vault_socket(self) -> Path:
        """The absolute path of the socket.

        Raises:
            InputError: the path is too long for the system, or contains a comma.
        """
        return check_socket_path(self.path(self.socket))

    @property
    def log_file(self) -> Path | None:
        """The absolute path of the log; None for standard output."""
        return None if self.log == "-" else self.path(self.log)

    @property
    def server_address(self) -> Address:
        """The validated address of the server.

        Raises:
            InputError: it is not an address, or not a loopback address although TLS is off.
        """
        if self.insecure:
            return loopback_address(self.server, "server", "without TLS it stays on this machine")
        return any_address(self.server, "server")

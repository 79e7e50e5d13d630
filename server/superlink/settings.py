"""server.toml: the addresses, keys and folders of the coordinator's server."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from pydantic import Field

from common.errors import InputError
from common.settings import SettingsFile
from common.system.network import Address, any_address, loopback_address
from server.registry.registry import Registry


class Server(SettingsFile):
    """The coordinator's server. Paths are relative to this file."""

    address: str = Field(default="127.0.0.1:8443", examples=["0.0.0.0:8443"])
    """Address for organizations: TLS, registered node keys only. 0.0.0.0 is all networks."""
    certificate: str = "certs/server.pem"
    """The server's certificate, in PEM format; created by `sotto server certs`."""
    key: str = "certs/server.key"
    """The certificate's key."""
    superlink: str = "127.0.0.1:8000"
    """Address of Flower's SuperLink, on this machine only: any program that reaches it can submit runs."""
    folder: str = "superlink"
    """Folder of the SuperLink's database and logs, and of the registry. It contains noised updates: keep it
    private."""
    insecure: bool = False
    """For tests on one machine: no TLS and no keys; the SuperLink itself listens at `address`."""

    @property
    def database(self) -> Path:
        """File of the SuperLink's database."""
        return self.path(self.folder) / "state.db"

    @property
    def wakeups(self) -> tuple[Path, Path]:
        """Pipes that are signalled when the database changes: the gateway's and the SuperExec's."""
        folder = self.path(self.folder)
        return folder / "gateway.wakeup", folder / "superexec.wakeup"

    @property
    def registry(self) -> Path:
        """Folder of the registry."""
        return self.path(self.folder) / "organizations"

    def without_tls(self) -> Server:
        """Return these settings without TLS and keys, as for `--insecure`."""
        return self.model_copy(update={"insecure": True})

    def organizations(self) -> Registry:
        """Return the registry of organizations."""
        return Registry(self.registry)

    @property
    def public_address(self) -> Address:
        """The address for organizations.

        Raises:
            InputError: it is invalid, or not a loopback address although TLS is disabled.
        """
        if self.insecure:
            return loopback_address(self.address, "address", "without TLS it stays on this machine")
        return any_address(self.address, "address")

    @property
    def superlink_address(self) -> Address:
        """The address of the SuperLink.

        Raises:
            InputError: it is invalid, not a loopback address, or has the gateway's port.
        """
        if self.insecure:
            return self.public_address
        why = "the SuperLink has no authentication and stays on this machine"
        behind, gateway = loopback_address(self.superlink, "superlink", why), self.public_address
        if behind.port == gateway.port:
            raise InputError(f"superlink = {self.superlink!r}: its port should differ from that of address")
        return behind


def local(address: Address) -> Address:
    """Return the address under which this machine reaches its own listener."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened at
    return Address(loopback.get(address.host, address.host), address.port)


def is_ready(address: Address) -> bool:
    """Return whether a SuperLink answers at an address."""
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False

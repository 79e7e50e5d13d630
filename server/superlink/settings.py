"""server.toml: where the coordinator's server listens, and with what."""

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
    """Where organizations reach it: TLS, for registered node keys only. 0.0.0.0 is all networks."""
    certificate: str = "certs/server.pem"
    """Its certificate, in PEM format; `sotto server certs` makes one."""
    key: str = "certs/server.key"
    """The certificate's key."""
    superlink: str = "127.0.0.1:8000"
    """Where Flower's SuperLink listens behind it. Whoever reaches this can submit runs: this machine only."""
    folder: str = "superlink"
    """The SuperLink's database, logs and home, and who is registered. It holds noised updates: keep it to
    yourself."""
    insecure: bool = False
    """For trying things out on one machine: without TLS and keys the SuperLink itself listens at `address`."""

    @property
    def database(self) -> Path:
        """The SuperLink's database."""
        return self.path(self.folder) / "state.db"

    @property
    def bells(self) -> tuple[Path, Path]:
        """They ring when the database changes, one for the gateway and one for the SuperExec."""
        folder = self.path(self.folder)
        return folder / "gateway.bell", folder / "superexec.bell"

    @property
    def registry(self) -> Path:
        """Folder of the registered organizations."""
        return self.path(self.folder) / "organizations"

    def without_tls(self) -> Server:
        """The same, but without TLS and keys, as `--insecure` asks."""
        return self.model_copy(update={"insecure": True})

    def organizations(self) -> Registry:
        """The registered organizations."""
        return Registry(self.registry)

    @property
    def listens_at(self) -> Address:
        """Where organizations reach it, checked.

        Raises:
            InputError: it is no address, or without TLS not this machine's alone.
        """
        if self.insecure:
            return loopback_address(self.address, "address", "without TLS it stays on this machine")
        return any_address(self.address, "address")

    @property
    def superlink_at(self) -> Address:
        """Where the SuperLink listens, checked.

        Raises:
            InputError: it is no address, not this machine's alone, or the gateway's.
        """
        if self.insecure:
            return self.listens_at
        why = "the SuperLink serves everybody who reaches it and stays on this machine"
        behind, gateway = loopback_address(self.superlink, "superlink", why), self.listens_at
        if behind.port == gateway.port:
            raise InputError(f"superlink = {self.superlink!r}: it should be another port than that of address")
        return behind


def local(address: Address) -> Address:
    """Where this machine reaches a listener of its own."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be found, not to listen
    return Address(anywhere.get(address.host, address.host), address.port)


def is_ready(address: Address) -> bool:
    """Whether a SuperLink answers there."""
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False

"""`sotto server start`: Flower's SuperLink on loopback, kept running, with a home of its own."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError, SottoError
from common.lock import Held, exclusive
from common.logs import warn
from common.network import Address, loopback_address
from common.processes import FLOWER_ENVIRONMENT, Supervisor
from common.settings import SettingsFile

_READY_SECONDS = 60.0


class Server(SettingsFile):
    """The coordinator's SuperLink. Paths are relative to this file."""

    address: str = "127.0.0.1:8000"
    """Where it listens. It serves everything on one port, without authentication: this machine only."""
    folder: str = "superlink"
    """Its database, log and home, and who is registered. It holds noised updates: keep it to yourself."""

    @property
    def registry(self) -> Path:
        """Folder of the registered organizations."""
        return self.path(self.folder) / "organizations"

    @property
    def listens_at(self) -> Address:
        """The address, checked.

        Raises:
            InputError: it is none, or not this machine's alone.
        """
        return loopback_address(self.address, "address")


def serve(server: Server, report: Callable[[str], None]) -> None:
    """Keep a SuperLink running until SIGTERM or SIGINT.

    Args:
        server: where and with what.
        report: told in one line when it is ready.

    Raises:
        InputError: the port or the folder is in use.
        SottoError: it does not start.
    """
    address, folder = server.listens_at, server.path(server.folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with exclusive(folder / "superlink"), Supervisor(warn) as supervisor:
            if address.is_open():
                raise InputError(f"address = {address}: another program listens there; choose another port")
            supervisor.start(
                "SuperLink", _command(address, folder), _environment(folder), folder / "superlink.log"
            )
            if supervisor.wait_for(lambda: is_ready(address), _READY_SECONDS):
                report(f"the server is ready at {address}; its log is {folder / 'superlink.log'}")
            elif not supervisor.told_to_end:
                raise SottoError(f"the SuperLink is not ready in time; see {folder / 'superlink.log'}")
            supervisor.run()
    except Held as held:
        raise InputError(f"folder = {folder}: another server, process {held.holder}, uses it") from None


def is_ready(address: Address) -> bool:
    """Whether a SuperLink answers there."""
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _command(address: Address, folder: Path) -> list[str]:
    return [
        *(str(Path(sys.executable).parent / "flower-superlink"), "--insecure"),
        *("--host", address.host, "--port", str(address.port)),
        *("--database", str(folder / "state.db")),
    ]


def _environment(folder: Path) -> dict[str, str]:
    # Flower starts its own programs by name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**FLOWER_ENVIRONMENT, "FLWR_HOME": str(folder / "home"), "PATH": path}

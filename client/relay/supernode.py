"""`sotto supernode start`: the processes of an organization that have network access and no data."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from client.relay.gateway_client import GatewayMonitor
from client.relay.runtime import check_version
from client.relay.settings import Relay
from client.relay.vault_client import vault_name
from common.errors import InputError, SottoError
from common.system.lock import Held, exclusive
from common.system.logs import ORGANIZATION_VARIABLE, warn
from common.system.network import Address, free_port
from common.system.processes import FLOWER_ENVIRONMENT, Supervisor
from common.system.wakeup import Wakeup


def serve_relay(relay: Relay, report: Callable[[str], None]) -> None:
    """Keep a SuperNode and its relay running until SIGTERM or SIGINT.

    Args:
        relay: the relay's settings.
        report: called with one line when both are running.

    Raises:
        InputError: the vault belongs to another organization, an address or path is wrong, or the server rejects
            the node key, at startup or later.
        SottoError: the vault or the server is not reachable in time.
    """
    check_version()
    server, socket, log = relay.server_address, relay.vault_socket, relay.log_file
    gateway = (
        None
        if relay.insecure
        else GatewayMonitor(server, relay.path(relay.ca), relay.path(relay.node_key), relay.name)
    )

    def log_event(line: str) -> None:
        warn(line)
        if gateway:
            # A SuperNode whose key is rejected exits. Check at once whether that was the reason.
            gateway.ask_now()

    try:
        with (
            exclusive(log) if log else nullcontext(),
            tempfile.TemporaryDirectory(prefix="sotto-relay-") as folder,
            Supervisor(log_event) as supervisor,
        ):
            if not _wait_for_vault(relay, socket, supervisor, report):
                return
            if not _wait_for_server(relay, server, gateway, supervisor, report):
                return
            _start(relay, Path(folder), supervisor)
            report(f"{relay.name}: relays between the server at {server} and the vault at {socket}")
            supervisor.run(gateway.poll if gateway else lambda: None)
    except Held as held:
        raise InputError(f"log = {log}: in use by another relay, process {held.holder}") from None


def _start(relay: Relay, folder: Path, supervisor: Supervisor) -> None:
    """Start the SuperNode, and the relay that answers its messages."""
    environment = {"FLWR_LOG_LEVEL": "WARNING", **FLOWER_ENVIRONMENT, "FLWR_HOME": str(folder)}
    environment |= {ORGANIZATION_VARIABLE: relay.name}
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32), encoding="ascii")
    wakeup = folder / "wakeup"
    Wakeup.create(wakeup)
    port = str(free_port())
    program = [sys.executable, "-P", "-m", "client.relay.runtime"]
    keys = ["--root-certificates", str(relay.path(relay.ca))]
    keys += ["--auth-supernode-private-key", str(relay.path(relay.node_key))]
    node = [
        *("--superlink", str(relay.server_address), "--host", "127.0.0.1", "--port", port),
        *(["--insecure"] if relay.insecure else keys),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
    ]
    log = relay.log_file
    # The two are restarted together. A SuperNode whose relay died would hold its message for a minute before
    # Flower sends it again; terminated properly it signs off, and gets the message again when it is back. A relay
    # has nothing to do without its SuperNode.
    relay_command = [*program, "relay", f"127.0.0.1:{port}", str(secret), str(wakeup), str(relay.vault_socket)]
    supervisor.start(
        "SuperNode", [*program, "supernode", str(wakeup), *node], environment, log, takes_along="relay"
    )
    supervisor.start("relay", relay_command, environment, log, takes_along="SuperNode")


def _wait_for_server(
    relay: Relay,
    server: Address,
    gateway: GatewayMonitor | None,
    supervisor: Supervisor,
    report: Callable[[str], None],
) -> bool:
    """Wait until the server is reachable. Returns False only if this process was asked to terminate.

    Raises:
        InputError: the server rejects our key, or its certificate is not valid.
        SottoError: the server is not reachable in time.
    """
    is_reachable = gateway.accepts_us if gateway else server.is_open
    if not is_reachable():
        report(f"{relay.name}: waiting for the server at {server}")
        if not supervisor.wait_for(is_reachable, relay.patience) and not supervisor.stop_requested:
            reason = f" ({gateway.last_error})" if gateway and gateway.last_error else ""
            raise SottoError(
                f"no server answers at {server}{reason}; the coordinator starts it with: sotto server start"
            )
    return not supervisor.stop_requested


def _wait_for_vault(relay: Relay, socket: Path, supervisor: Supervisor, report: Callable[[str], None]) -> bool:
    """Wait until the vault answers. Returns False only if this process was asked to terminate.

    Raises:
        InputError: the vault belongs to another organization.
        SottoError: the vault does not answer in time.
    """
    if vault_name(socket) is None:
        report(f"{relay.name}: waiting for the vault at {socket}")
        supervisor.wait_for(lambda: vault_name(socket) is not None, relay.patience)
    if supervisor.stop_requested:
        return False
    name = vault_name(socket)
    if name is None:
        raise SottoError(f"no vault answers at {socket}; start it with: sotto vault start ORGANIZATION.toml")
    if name != relay.name:
        raise InputError(
            f"name = {relay.name!r}: the vault at {socket} belongs to {name!r}; the names should be the same"
        )
    return True

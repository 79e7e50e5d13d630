"""`sotto supernode start`: the side of an organization that has the network and no data."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from client.relay.gateway_client import Gateway
from client.relay.runtime import check_version
from client.relay.settings import Relay
from client.relay.vault_client import vault_name
from common.errors import InputError, SottoError
from common.system.bell import Bell
from common.system.lock import Held, exclusive
from common.system.logs import ORGANIZATION_VARIABLE, warn
from common.system.network import Address, free_port
from common.system.processes import FLOWER_ENVIRONMENT, Supervisor


def serve_relay(relay: Relay, report: Callable[[str], None]) -> None:
    """Keep a SuperNode and its relay running until SIGTERM or SIGINT.

    Args:
        relay: where the vault and the server are.
        report: told in one line when they run.

    Raises:
        InputError: the vault is another organization's, an address or path is wrong, or the server does not take
            the node key, now or later.
        SottoError: the vault or the server is not there in time.
    """
    check_version()
    server, socket, log = relay.server_address, relay.vault_socket, relay.log_file
    gateway = (
        None if relay.insecure else Gateway(server, relay.path(relay.ca), relay.path(relay.node_key), relay.name)
    )

    def tell(line: str) -> None:
        warn(line)
        if gateway:
            # A SuperNode that the server does not let in any more ends. Whether it was that is asked at once.
            gateway.ask_now()

    try:
        with (
            exclusive(log) if log else nullcontext(),
            tempfile.TemporaryDirectory(prefix="sotto-relay-") as home,
            Supervisor(tell) as supervisor,
        ):
            if not _vault_answers(relay, socket, supervisor, report):
                return
            if not _server_answers(relay, server, gateway, supervisor, report):
                return
            _start(relay, Path(home), supervisor)
            report(f"{relay.name}: relays between the server at {server} and the vault at {socket}")
            supervisor.run(gateway.watch if gateway else lambda: None)
    except Held as held:
        raise InputError(f"log = {log}: another relay, process {held.holder}, writes it") from None


def _start(relay: Relay, home: Path, supervisor: Supervisor) -> None:
    """Start the SuperNode, and the relay that answers its messages."""
    environment = {"FLWR_LOG_LEVEL": "WARNING", **FLOWER_ENVIRONMENT, "FLWR_HOME": str(home)}
    environment |= {ORGANIZATION_VARIABLE: relay.name}
    secret = home / "secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32), encoding="ascii")
    bell = home / "bell"
    Bell.hang(bell)
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
    # A SuperNode whose relay died would keep the message for a minute before Flower asks again. Ended in order
    # it signs off, and is asked anew when it is back. A relay has nothing to do without it.
    relaying = [*program, "relay", f"127.0.0.1:{port}", str(secret), str(bell), str(relay.vault_socket)]
    supervisor.start("SuperNode", [*program, "supernode", str(bell), *node], environment, log, takes_along="relay")
    supervisor.start("relay", relaying, environment, log, takes_along="SuperNode")


def _server_answers(
    relay: Relay, server: Address, gateway: Gateway | None, supervisor: Supervisor, report: Callable[[str], None]
) -> bool:
    """Whether the server is there before the time is over; False only if this process is told to end.

    Raises:
        InputError: the server does not take our key, or we not its certificate.
        SottoError: it is not there in time.
    """
    is_there = gateway.is_open if gateway else server.is_open
    if not is_there():
        report(f"{relay.name}: waiting for the server at {server}")
        if not supervisor.wait_for(is_there, relay.patience) and not supervisor.told_to_end:
            reason = f" ({gateway.closed})" if gateway and gateway.closed else ""
            raise SottoError(
                f"no server answers at {server}{reason}; the coordinator starts it with: sotto server start"
            )
    return not supervisor.told_to_end


def _vault_answers(relay: Relay, socket: Path, supervisor: Supervisor, report: Callable[[str], None]) -> bool:
    """Whether the vault is there before the time is over; False only if this process is told to end."""
    if vault_name(socket) is None:
        report(f"{relay.name}: waiting for the vault at {socket}")
        supervisor.wait_for(lambda: vault_name(socket) is not None, relay.patience)
    if supervisor.told_to_end:
        return False
    name = vault_name(socket)
    if name is None:
        raise SottoError(f"no vault answers at {socket}; start it with: sotto vault start ORGANIZATION.toml")
    if name != relay.name:
        raise InputError(f"name = {relay.name!r}: the vault at {socket} is the one of {name!r}")
    return True

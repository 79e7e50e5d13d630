"""Health check of a relay, for container engines and monitoring. Exit code 0 if it is healthy.

`python -m client.relay.health RELAY.toml` checks that the relay's two processes run, that the SuperNode is
connected to the coordinator, and that the vault answers. Run it as the relay's user.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from client.channel.health import vault_problem
from client.relay.settings import Relay
from common.errors import SottoError

# A SuperNode that has just been restarted needs a moment to connect.
_CONNECT_SECONDS = 3.0
_POLL_SECONDS = 0.2


def relay_problem(relay: Relay) -> str | None:
    """Describe in one line why a relay is unhealthy; None if it runs and is connected to both sides.

    Args:
        relay: the relay's settings.

    Raises:
        InputError: the socket's path is not valid.
    """
    ports = [
        arguments[1].rpartition(":")[2]
        for _, arguments in _programs("relay")
        if arguments[4:] == [str(relay.vault_socket)]
    ]
    if not ports:
        return "the relay is not running"
    nodes = [process for process, arguments in _programs("supernode") if ("--port", ports[0]) in _pairs(arguments)]
    if not nodes:
        return "the SuperNode is not running"
    deadline = time.monotonic() + _CONNECT_SECONDS
    while not _is_connected(nodes[0], int(relay.server.rpartition(":")[2])):
        if time.monotonic() > deadline:
            return f"the SuperNode is not connected to {relay.server}"
        time.sleep(_POLL_SECONDS)
    return vault_problem(relay.vault_socket)


def _programs(name: str) -> Iterator[tuple[psutil.Process, list[str]]]:
    """The processes that run a program of `client/relay/runtime.py`, each with its arguments from that name on."""
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if ("client.relay.runtime", name) in _pairs(arguments):
            yield process, arguments[arguments.index("client.relay.runtime") + 1 :]


def _pairs(arguments: list[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(arguments))


def _is_connected(process: psutil.Process, port: int) -> bool:
    try:
        return any(
            connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port == port
            for connection in process.net_connections(kind="tcp")
        )
    except psutil.Error:
        return False


def main() -> None:
    """Print the problem, if there is one, and exit."""
    match sys.argv[1:]:
        case [file]:
            try:
                problem = relay_problem(Relay.read(Path(file)))
            except SottoError as error:
                problem = str(error)
            sys.exit(problem)
        case _:
            sys.exit("usage: python -m client.relay.health RELAY.toml")


if __name__ == "__main__":
    main()

"""Is a part of an organization well? For container engines and whoever else looks: exit code 0 if it is.

`python -m client.health vault SOCKET` asks the vault whether it answers; also while it trains, it does.
`python -m client.health relay RELAY.toml` looks for the relay's two processes, for the SuperNode's connection to
the coordinator, and asks the vault. Run it as the user of what it looks at.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.supernode import Relay
from client.wire import check_socket_path, grpc_address
from common.errors import SottoError

_ANSWER_SECONDS = 5.0
# A SuperNode that has just come back connects within moments.
_CONNECT_SECONDS = 3.0
_POLL_SECONDS = 0.2


def vault_problem(socket: Path) -> str | None:
    """What is wrong with a vault, in one line; None if it answers.

    Args:
        socket: where it should answer.

    Raises:
        InputError: no socket can have that path.
    """
    with grpc.insecure_channel(grpc_address(check_socket_path(socket))) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_SECONDS)
        except grpc.RpcError as error:
            return f"no vault answers at {socket}: {error.code().name}"
    status: int = reply.status
    if status != health_pb2.HealthCheckResponse.SERVING:
        return f"the vault at {socket} is {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}"
    return None


def relay_problem(relay: Relay) -> str | None:
    """What is wrong with an organization's relay, in one line; None if it runs and is connected to both sides.

    Args:
        relay: its file.

    Raises:
        InputError: no socket can have the path that the file names.
    """
    ports = [
        words[1].rpartition(":")[2] for _, words in _programs("relay") if words[4:] == [str(relay.vault_socket)]
    ]
    if not ports:
        return "the relay does not run"
    nodes = [process for process, words in _programs("supernode") if ("--port", ports[0]) in _pairs(words)]
    if not nodes:
        return "the SuperNode does not run"
    deadline = time.monotonic() + _CONNECT_SECONDS
    while not _is_connected(nodes[0], int(relay.server.rpartition(":")[2])):
        if time.monotonic() > deadline:
            return f"the SuperNode is not connected to {relay.server}"
        time.sleep(_POLL_SECONDS)
    return vault_problem(relay.vault_socket)


def _programs(name: str) -> Iterator[tuple[psutil.Process, list[str]]]:
    """The processes that run a program of `client/runtime.py`, each with the words from its name on."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if ("client.runtime", name) in _pairs(words):
            yield process, words[words.index("client.runtime") + 1 :]


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(words))


def _is_connected(process: psutil.Process, port: int) -> bool:
    try:
        return any(
            one.status == psutil.CONN_ESTABLISHED and one.raddr.port == port
            for one in process.net_connections(kind="tcp")
        )
    except psutil.Error:
        return False


def main() -> None:
    """Say what is wrong, if anything is."""
    try:
        match sys.argv[1:]:
            case ["vault", socket]:
                problem = vault_problem(Path(socket).absolute())
            case ["relay", file]:
                problem = relay_problem(Relay.read(Path(file)))
            case _:
                sys.exit("usage: python -m client.health vault SOCKET | relay RELAY.toml")
    except SottoError as error:
        problem = str(error)
    sys.exit(problem)


if __name__ == "__main__":
    main()

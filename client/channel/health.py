"""Health check of a vault, for container engines and monitoring. Exit code 0 if it is healthy.

`python -m client.channel.health SOCKET` checks that the vault answers, which it also does while it trains. Run it
as the user of the vault or of its relay.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.channel.framing import check_socket_path, grpc_address
from common.errors import SottoError

_ANSWER_SECONDS = 5.0


def vault_problem(socket: Path) -> str | None:
    """Describe in one line why a vault is unhealthy; None if it answers.

    Args:
        socket: the vault's socket.

    Raises:
        InputError: the path is not valid for a socket.
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


def main() -> None:
    """Print the problem, if there is one, and exit."""
    match sys.argv[1:]:
        case [socket]:
            try:
                problem = vault_problem(Path(socket).absolute())
            except SottoError as error:
                problem = str(error)
            sys.exit(problem)
        case _:
            sys.exit("usage: python -m client.channel.health SOCKET")


if __name__ == "__main__":
    main()

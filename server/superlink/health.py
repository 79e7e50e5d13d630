"""Health check of the server: `python -m server.superlink.health [server.toml]`; exit code 0 if healthy."""

from __future__ import annotations

import sys
from pathlib import Path

from common.errors import SottoError
from server.superlink.settings import Server, is_ready, local


def server_problem(server: Server) -> str | None:
    """Return the problem of the server in one line; None if it answers.

    Args:
        server: its settings.

    Raises:
        InputError: an address is invalid.
    """
    superlink, gateway = server.superlink_address, local(server.public_address)
    if not is_ready(superlink):
        return f"no SuperLink answers at {superlink}"
    return None if gateway.is_open() else f"no gateway answers at {server.public_address}"


def main() -> None:
    """Print the problem, if there is one."""
    try:
        match sys.argv[1:]:
            case []:
                problem = server_problem(Server())
            case [file]:
                problem = server_problem(Server.read(Path(file)))
            case _:
                sys.exit("usage: python -m server.superlink.health [SERVER.toml]")
    except SottoError as error:
        problem = str(error)
    sys.exit(problem)


if __name__ == "__main__":
    main()

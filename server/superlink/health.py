"""Is the coordinator's server well? `python -m server.superlink.health [server.toml]`: exit code 0 if it is."""

from __future__ import annotations

import sys
from pathlib import Path

from common.errors import SottoError
from server.superlink.settings import Server, is_ready, local


def server_problem(server: Server) -> str | None:
    """What is wrong with the server, in one line; None if it answers.

    Args:
        server: its file.

    Raises:
        InputError: an address in the file is none.
    """
    superlink, gateway = server.superlink_at, local(server.listens_at)
    if not is_ready(superlink):
        return f"no SuperLink answers at {superlink}"
    return None if gateway.is_open() else f"the gateway at {server.listens_at} is closed"


def main() -> None:
    """Say what is wrong, if anything is."""
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

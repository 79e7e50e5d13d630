"""Is a relay well? For container engines and whoever else looks: exit code 0 if it is.

`python -m client.relay.health RELAY.toml` looks for the relay's two processes, for the SuperNode's connection to
the coordinator, and asks the vault. Run it as the relay's user.
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

# A SuperNode that has just come back connects within moments.
_CONNECT_SECONDS = 3.0
_POLL_SECONDS = 0.2


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
    """The processes that run a program of `client/relay/runtime.py`, each with the words from its name on."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if ("client.relay.runtime", name) in _pairs(words):
            yield process, words[words.index("client.relay.runtime") + 1 :]


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

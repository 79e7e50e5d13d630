"""The health checks of containers, on real processes: well, and with each part missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.federation.harness import Federation, texts
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def check(*arguments: object) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr.strip()


def test_each_part_is_well_until_something_of_it_is_gone(tiny_base: Path, tmp_path: Path) -> None:
    with Federation(tmp_path, tiny_base) as federation:
        home = federation.write_organization("a", texts(20))
        socket, relay = home / "vault.sock", ("client.relay.health", home / "relay.toml")
        file = ("server.superlink.health", federation.folder / "server.toml")
        assert check(*file) == (1, f"no SuperLink answers at 127.0.0.1:{federation.superlink_port}")
        assert check("client.channel.health", socket) == (1, f"no vault answers at {socket}: UNAVAILABLE")
        assert check(*relay) == (1, "the relay is not running")

        federation.start_server()
        vault = federation.start_vault("a")
        node = federation.start_supernode("a")
        assert check(*file) == (0, "")
        assert check("client.channel.health", socket) == (0, "")
        wait_until(lambda: check(*relay) == (0, ""), "the relay's connection")

        # A part that hangs is no better than one that is gone.
        superlink = federation.programs["server"].descendant("flower-superlink")
        superlink.send_signal(signal.SIGSTOP)
        assert check(*file)[0] == 1
        superlink.send_signal(signal.SIGCONT)
        vault.process.send_signal(signal.SIGSTOP)
        code, said = check(*relay)
        assert (code, said) == (1, f"no vault answers at {socket}: DEADLINE_EXCEEDED")
        vault.process.send_signal(signal.SIGCONT)

        server = federation.programs["server"]
        server.process.send_signal(signal.SIGSTOP)  # so that nothing is started again
        server.descendant("server.superlink.gateway").kill()
        assert check(*file) == (1, f"no gateway answers at 127.0.0.1:{federation.port}")
        assert check(*relay) == (1, f"the SuperNode is not connected to 127.0.0.1:{federation.port}")
        node.process.send_signal(signal.SIGSTOP)  # as above
        node.descendant("client.relay.runtime", "relay").kill()
        assert check(*relay) == (1, "the relay is not running")
        for program in (node, server):
            program.process.send_signal(signal.SIGCONT)
        assert server.end() == 0
        assert vault.end() == 0
        assert node.end() == 0


@pytest.mark.parametrize(
    "arguments", [("client.channel.health",), ("client.relay.health", 1, 2), ("server.superlink.health", 1, 2)]
)
def test_a_wrong_call_is_not_well(arguments: tuple[object, ...]) -> None:
    code, said = check(*arguments)
    assert code == 1
    assert said.startswith("usage: ")


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    for arguments in (("client.relay.health", tmp_path / "no"), ("server.superlink.health", tmp_path / "no")):
        assert check(*arguments) == (1, f"{tmp_path / 'no'}: there is no such file")
    code, said = check("client.channel.health", tmp_path / ("x" * 120))
    assert code == 1
    assert "the system allows 107" in said

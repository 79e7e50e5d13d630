"""A federation that has nothing to do asks for nothing, and is there when there is something, or when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.federation.harness import Federation, assert_gone, lines, texts, wait_until

pytestmark = pytest.mark.slow

SECONDS = 5
# What may come in that time: a heartbeat, a pull that was kept for 20 seconds, a look whether there is a run.
MOST_REQUESTS = 4
# In that time. A process that looks ten times a second is woken fifty times.
MOST_WAKES = 20
SIDE = {"SuperNode": ("client.relay.runtime", "supernode"), "relay": ("client.relay.runtime", "relay")}


@pytest.fixture(scope="module")
def federation(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("idle"), tiny_base) as federation:
        federation.write_organization("a", texts(40))
        server = federation.folder / "server.toml"
        # Flower's SuperLink then writes a line for each request.
        federation.start("server", "server", "start", server, FLWR_LOG_LEVEL="DEBUG").wait_for("is ready")
        federation.start_vault("a")
        federation.start_supernode("a")
        yield federation


def said(federation: Federation, *what: str) -> int:
    text = (federation.folder / "superlink" / "superlink.log").read_text()
    return sum(text.count(one) for one in what)


def wait_for_connection(federation: Federation, times: int = 1) -> None:
    wait_until(lambda: said(federation, "[Fleet.ActivateNode] Activated") >= times, "the SuperNode")
    time.sleep(1)


def asked(federation: Federation) -> int:
    """How many requests reached the SuperLink."""
    names = ("[Fleet.PullMessages] node_id", "[Fleet.SendNodeHeartbeat]", "Runtime.AcquireTask")
    return said(federation, *names)


def wakes(process: psutil.Process) -> int:
    """How often a process waited for something that then came."""
    return int(process.num_ctx_switches().voluntary)


def test_who_has_nothing_to_do_asks_for_nothing(federation: Federation) -> None:
    wait_for_connection(federation)
    node, server = federation.programs["a-node"], federation.programs["server"]
    processes = {name: node.descendant(*words) for name, words in SIDE.items()}
    processes["SuperExec"] = server.descendant("server.superlink.superexec")
    # The lines are those that are counted; on a busy machine the SuperExec asks for the first time later.
    wait_until(lambda: said(federation, "Runtime.AcquireTask") > 0, "the SuperExec")
    time.sleep(1)
    before, woken = asked(federation), {name: wakes(process) for name, process in processes.items()}
    time.sleep(SECONDS)
    assert asked(federation) - before <= MOST_REQUESTS
    for name, process in processes.items():
        assert wakes(process) - woken[name] <= MOST_WAKES, name


def test_a_relay_that_is_killed_while_it_waits_loses_no_message(federation: Federation) -> None:
    node = federation.programs["a-node"]
    node.descendant(*SIDE["relay"]).kill()
    node.wait_for("relay ended with code -9; restarting in")
    out = federation.folder / "run"
    code, text = federation.run(federation.write_plan("run"), out)
    assert code == 0, text
    assert [line["organizations"]["answered"] for line in lines(out)[1:]] == [["a"], ["a"]]


def test_a_supernode_ends_at_once_while_its_pull_is_kept(federation: Federation) -> None:
    times = said(federation, "[Fleet.ActivateNode] Activated")
    node = federation.programs["a-node"].descendant(*SIDE["SuperNode"])
    node.terminate()
    # A pull is kept for 20 seconds.
    assert_gone([node], seconds=5)
    wait_for_connection(federation, times + 1)


def test_a_revoked_organization_is_told_so_while_its_pull_is_kept(federation: Federation) -> None:
    code, text = federation.call("server", "revoke", "a", "--server", federation.folder / "server.toml")
    assert code == 0, text
    node = federation.programs["a-node"]
    # A pull is kept for 20 seconds, and without one the server is asked every 30.
    assert node.wait(12) == 2
    assert "has revoked the key SHA256:" in node.text

"""Processes are killed at random moments of a run: it completes or is continued, and a run is charged once."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.federation.harness import Federation, Program, assert_gone, charged, lines, texts, wait_for_round
from tests.waiting import wait_until

NAMES = ["a", "b"]
STEPS = 20


@pytest.fixture(scope="module")
def federation(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("crashes"), tiny_base) as federation:
        for name in NAMES:
            home = federation.write_organization(name, texts(80))
            federation.start(f"{name}-vault", "vault", "start", home / "organization.toml")
            federation.start(f"{name}-node", "supernode", "start", home / "relay.toml")
        federation.start_server()
        for name in NAMES:
            federation.programs[f"{name}-vault"].wait_for("the vault answers")
            federation.programs[f"{name}-node"].wait_for("relays between")
        yield federation


@pytest.fixture
def moment() -> random.Random:
    """A generator whose seed pytest prints when the test fails."""
    seed = int(time.time())
    logging.getLogger(__name__).warning("random moments from seed %d", seed)
    return random.Random(seed)


def start_run(federation: Federation, plan: Path, out: Path, key: str, *more: str) -> Program:
    return federation.start(key, *federation.run_arguments(plan, out, *more))


def assert_charged_once(federation: Federation, run: str, rounds: int) -> None:
    """Every organization was charged the whole run, once, and released nothing beyond it."""
    for name in NAMES:
        steps, releases = charged(federation.folder / name / "ledger.db")[run]
        assert steps == rounds * STEPS
        assert releases == [(number, STEPS) for number in range(1, rounds + 1)]


def kill(process: psutil.Process) -> None:
    process.kill()
    # Its parent may be Flower's, which leaves zombies.
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the end")


def test_a_run_completes_by_itself_when_vault_relay_and_supernode_are_killed(
    federation: Federation, moment: random.Random
) -> None:
    rounds = 5
    plan = federation.write_plan(
        "killed", training={"rounds": rounds, "local_steps": STEPS}, federation={"min_organizations": 2}
    )
    out = federation.folder / "killed"
    run = start_run(federation, plan, out, "run-killed")

    wait_for_round(out, 1)
    time.sleep(moment.uniform(0, 2))
    federation.programs["a-vault"].process.kill()
    assert federation.programs["a-vault"].process.wait() == -signal.SIGKILL
    time.sleep(moment.uniform(0, 1))
    federation.start_vault("a")

    wait_for_round(out, 2)
    time.sleep(moment.uniform(0, 2))
    kill(federation.programs["a-node"].descendant("client.relay.runtime", "relay"))
    federation.programs["a-node"].wait_for("relay ended with code -9; restarting in")

    wait_for_round(out, 4)
    time.sleep(moment.uniform(0, 2))
    kill(federation.programs["b-node"].descendant("client.relay.runtime", "supernode"))
    federation.programs["b-node"].wait_for("SuperNode ended with code -9; restarting in")

    assert run.wait() == 0, run.text
    assert [line["round"] for line in lines(out)] == list(range(rounds + 1))
    for line in lines(out)[1:]:
        assert line["organizations"] == {"asked": NAMES, "answered": NAMES, "refused": {}}
    (name,) = charged(federation.folder / "a" / "ledger.db")
    assert_charged_once(federation, name, rounds)


@pytest.mark.slow
def test_a_run_whose_server_side_is_killed_ends_in_one_line_and_resume_completes_it(
    federation: Federation, moment: random.Random
) -> None:
    rounds = 6
    plan = federation.write_plan(
        "resumed", training={"rounds": rounds, "local_steps": STEPS}, federation={"min_organizations": 2}
    )
    out = federation.folder / "resumed"
    before = set(charged(federation.folder / "a" / "ledger.db"))
    run = start_run(federation, plan, out, "run-1")
    wait_for_round(out, 2)
    time.sleep(moment.uniform(0, 2))
    kill(federation.programs["server"].descendant("flwr-serverapp"))
    assert_says_how_to_continue(run)

    reached = len(lines(out)) - 1
    run = start_run(federation, plan, out, "run-2", "--resume")
    wait_for_round(out, reached + 2)
    time.sleep(moment.uniform(0, 2))
    server = federation.programs["server"]
    lost = [one for one in server.family()[1:] if "server.superlink.gateway" not in one.cmdline()]
    kill(server.descendant("flower-superlink"))
    assert_says_how_to_continue(run)
    server.wait_for("SuperLink ended with code -9; restarting in")
    # What the dead SuperLink had started would otherwise go on beside the new one.
    assert_gone(lost)

    wait_until(
        lambda: len([one for one in server.family() if "flower-superlink" in str(one.cmdline())]) == 1, "one"
    )
    run = start_run(federation, plan, out, "run-3", "--resume")
    assert run.wait() == 0, run.text
    assert [line["round"] for line in lines(out)] == list(range(rounds + 1))
    (name,) = set(charged(federation.folder / "a" / "ledger.db")) - before
    assert_charged_once(federation, name, rounds)


def assert_says_how_to_continue(run: Program) -> None:
    assert run.wait(60) == 1, run.text
    (line,) = [line for line in run.text.splitlines() if line.startswith("error: ")]
    assert "--resume" in line
    assert "Traceback" not in run.text


@pytest.mark.slow
def test_control_c_ends_a_run_and_resume_completes_it(federation: Federation) -> None:
    rounds = 3
    plan = federation.write_plan(
        "stopped", training={"rounds": rounds, "local_steps": STEPS}, federation={"min_organizations": 2}
    )
    out = federation.folder / "stopped"
    before = set(charged(federation.folder / "a" / "ledger.db"))
    run = start_run(federation, plan, out, "run-4")
    wait_for_round(out, 2)
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130
    assert f"stopped; continue with: sotto run {plan} --out {out} --resume --server" in run.text
    assert "Traceback" not in run.text
    # The rounds do not go on behind the user's back.
    wait_until(lambda: not federation.programs["server"].descendants("flwr-serverapp"), "the end of the ServerApp")
    assert len(lines(out)) < rounds + 1

    run = start_run(federation, plan, out, "run-5", "--resume")
    assert run.wait() == 0, run.text
    assert [line["round"] for line in lines(out)] == list(range(rounds + 1))
    (name,) = set(charged(federation.folder / "a" / "ledger.db")) - before
    assert_charged_once(federation, name, rounds)


# Runs at the start of every program below. The SuperNode's first message asks who the organization is. Its second,
# a round of the first run, meets the end of the run while it arrives. The reply to the round of the second run is
# announced, and then the SuperNode dies.
FAULTS = """
import os, signal, sys
from pathlib import Path
if "client.relay.runtime" in sys.orig_argv and "supernode" in sys.orig_argv:
    import flwr.supercore.inflatable.inflatable_utils as utils
    from flwr.supercore.run import RunNotRunningException
    def count(name):
        with Path(__file__).with_name(name).open("a") as file:
            file.write("x")
        return len(Path(__file__).with_name(name).read_text())
    pull, push = utils.pull_objects, utils.push_object_contents_from_iterable
    def pull_some(*arguments, **keywords):
        if count("pulls") == 2:
            raise RunNotRunningException
        return pull(*arguments, **keywords)
    def push_some(*arguments, **keywords):
        if count("pushes") == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return push(*arguments, **keywords)
    utils.pull_objects, utils.push_object_contents_from_iterable = pull_some, push_some
"""


@pytest.mark.soak
def test_messages_that_never_arrive_whole_hold_up_nobody(tiny_base: Path, tmp_path: Path) -> None:
    """Flower waits minutes for the rest of a message that has begun to arrive."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(FAULTS)
    with Federation(tmp_path, tiny_base) as federation:
        home = federation.write_organization("a", texts(80))
        federation.start("a-vault", "vault", "start", home / "organization.toml")
        federation.start_server()
        hook = os.pathsep.join([str(tmp_path / "hook"), str(ROOT)])
        node = federation.start("a-node", "supernode", "start", home / "relay.toml", PYTHONPATH=hook)
        node.wait_for("relays between")
        first = federation.write_plan("first", federation={"min_organizations": 1, "round_timeout": 10.0})
        code, said = federation.run(first, tmp_path / "first")
        assert code == 1
        assert "a: no answer within" in said

        second = federation.write_plan("second", federation={"min_organizations": 1, "round_timeout": 90.0})
        code, said = federation.run(second, tmp_path / "second")
        assert code == 0, said
        assert "SuperNode ended with code -9" in node.text
        (run,) = charged(home / "ledger.db")
        assert charged(home / "ledger.db")[run] == (4, [(1, 2), (2, 2)])

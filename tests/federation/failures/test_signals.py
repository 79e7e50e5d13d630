"""Every `start` command ends by itself when told to, idle or in the middle of a round, and leaves nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.harness import Federation, Program, assert_gone, texts, wait_for_round

pytestmark = pytest.mark.slow

# One of each command, in an order in which each still has the others to talk to.
COMMANDS = ["a-node", "a-vault", "b", "server"]
# Each command gets the one while it is idle, and the other in the middle of a round.
NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT]


@pytest.fixture(scope="module")
def federation(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("signals"), tiny_base) as federation:
        for name in ("a", "b"):
            federation.write_organization(name, texts(80))
        yield federation


def start(federation: Federation, *keys: str) -> None:
    """Organization a's processes apart, organization b's together."""
    a, b = federation.folder / "a", federation.folder / "b"
    commands = {
        "server": ["server", "start", federation.folder / "server.toml"],
        "a-vault": ["vault", "start", a / "organization.toml"],
        "a-node": ["supernode", "start", a / "relay.toml"],
        "b": ["client", "start", b / "organization.toml", b / "relay.toml"],
    }
    said = {
        "server": "is ready",
        "a-vault": "the vault answers",
        "a-node": "relays between",
        "b": "relays between",
    }
    for key in keys:
        (federation.folder / f"{key}.log").unlink(missing_ok=True)
        federation.start(key, *commands[key])
    for key in keys:
        federation.programs[key].wait_for(said[key])


def start_training(federation: Federation, name: str, organizations: int) -> Program:
    """A run whose rounds take long, once its first round is trained."""
    plan = federation.write_plan(
        name, training={"rounds": 2, "local_steps": 2000}, federation={"min_organizations": organizations}
    )
    out = federation.folder / name
    run = federation.start(name, *federation.run_arguments(plan, out))
    wait_for_round(out, 1)
    time.sleep(1)
    return run


def test_start_commands_that_are_idle_end_by_themselves(federation: Federation) -> None:
    start(federation, *COMMANDS)
    for key, number in zip(COMMANDS, NUMBERS, strict=True):
        assert federation.programs[key].end(number) == 0, key
    assert "Traceback" not in "".join(federation.programs[key].text for key in COMMANDS)


def test_start_commands_end_by_themselves_in_the_middle_of_a_round(federation: Federation) -> None:
    start(federation, *COMMANDS)
    run = start_training(federation, "training", 2)
    family = run.family()
    for key, number in zip(COMMANDS, reversed(NUMBERS), strict=True):
        assert federation.programs[key].end(number) == 0, key
    assert run.wait() == 1, run.text
    assert "--resume" in run.text
    assert_gone(family)
    assert "Traceback" not in run.text + "".join(federation.programs[key].text for key in COMMANDS)


def test_children_end_with_a_start_command_that_is_killed(federation: Federation) -> None:
    start(federation, "server", "b")
    run = start_training(federation, "training-killed", 1)
    for key in ("b", "server"):
        family = federation.programs[key].family()
        assert len(family) >= 3, key
        federation.programs[key].process.kill()
        federation.programs[key].process.wait()
        assert_gone(family)
    assert run.wait() == 1, run.text

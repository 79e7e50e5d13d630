"""Checkpoints: the last whole one is found again, with the state of the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.adapter.adapter import to_bytes
from common.errors import InputError
from common.plan.aggregation import Aggregation
from server.aggregation.optimizers import ServerState
from server.run_directory.run_directory import RunDirectory
from tests.server.run_directory.directories import INFO, PLAN, B, adapter, created


@pytest.mark.parametrize("numbers", [[1], [9, 10], [99, 100, 101], [999, 1000], [9999, 10_000]])
def test_the_latest_checkpoint_is_that_of_the_last_round(tmp_path: Path, numbers: list[int]) -> None:
    directory = created(tmp_path)
    for number in numbers:
        directory.checkpoints.write(number, ServerState(adapter(number)))
    number, latest = RunDirectory.open(tmp_path).latest_checkpoint()
    assert number == numbers[-1]
    assert (latest[B] == numbers[-1]).all()


def test_a_checkpoint_that_was_interrupted_does_not_count_and_is_not_in_the_way(tmp_path: Path) -> None:
    directory = created(tmp_path)
    directory.checkpoints.write(1, ServerState(adapter(1)))
    part = tmp_path / "checkpoints" / "round-0002.part"
    part.mkdir()
    (part / "adapter.safetensors").write_bytes(b"half")
    assert RunDirectory.open(tmp_path).latest_checkpoint()[0] == 1
    directory.checkpoints.write(2, ServerState(adapter(2)))
    number, latest = RunDirectory.open(tmp_path).latest_checkpoint()
    assert (number, latest[B][0, 0]) == (2, 2.0)
    assert not part.exists()


def test_a_round_that_is_run_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    directory = created(tmp_path)
    directory.checkpoints.write(1, ServerState(adapter(1)))
    directory.checkpoints.write(1, ServerState(adapter(7)))
    assert (directory.latest_checkpoint()[1][B] == 7).all()
    state = json.loads((tmp_path / "checkpoints" / "round-0001" / "state.json").read_bytes())
    assert state == {"run": INFO.run, "round": 1}


ADAM = {"server_optimizer": "fedadam", "server_learning_rate": 0.1, "average": 0.9}


def with_optimizer(path: Path) -> tuple[RunDirectory, ServerState]:
    plan = PLAN.model_copy(update={"aggregation": Aggregation.model_validate(ADAM)})
    directory = RunDirectory.create(path, INFO, plan, adapter(0))
    state = ServerState(*(adapter(value) for value in (1.0, -2.0, 3.0, 4.0)))
    directory.checkpoints.write(1, state)
    return directory, state


def test_the_state_of_the_server_is_found_again(tmp_path: Path) -> None:
    directory, state = with_optimizer(tmp_path)
    number, found = directory.checkpoints.latest()
    assert number == 1
    for part in ("adapter", "momentum", "variance", "average"):
        assert (getattr(found, part)[B] == getattr(state, part)[B]).all(), part
    assert (directory.latest_checkpoint()[1][B] == 4.0).all(), "the average is what is released"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("optimizer.safetensors", None, "holds no server optimizer of this run"),
        ("optimizer.safetensors", b"garbage", "holds no server optimizer of this run"),
        ("optimizer.safetensors", to_bytes(adapter(1)), "holds no server optimizer of this run"),
        (
            "optimizer.safetensors",
            to_bytes({f"{part}/{B}": adapter(-1.0)[B] for part in ("momentum", "variance", "average")}),
            "a variance is negative",
        ),
        ("state.json", None, "holds no round of this run"),
        ("state.json", b"{}", "cannot be read"),
        ("state.json", json.dumps({"run": INFO.run, "round": 2}).encode(), "another run or round"),
        ("state.json", json.dumps({"run": "x", "round": 1}).encode(), "another run or round"),
        ("state.json", json.dumps({"run": INFO.run, "round": True}).encode(), "cannot be read"),
    ],
)
def test_a_state_that_is_not_this_runs_is_an_input_error(
    tmp_path: Path, file: str, content: bytes | None, said: str
) -> None:
    directory, _ = with_optimizer(tmp_path)
    path = tmp_path / "checkpoints" / "round-0001" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        directory.checkpoints.latest()
    assert "\n" not in str(caught.value)


def test_a_directory_without_checkpoints_is_an_input_error(tmp_path: Path) -> None:
    directory = created(tmp_path)
    for file in (tmp_path / "checkpoints" / "round-0000").iterdir():
        file.unlink()
    (tmp_path / "checkpoints" / "round-0000").rmdir()
    with pytest.raises(InputError, match="holds no checkpoint"):
        directory.latest_checkpoint()

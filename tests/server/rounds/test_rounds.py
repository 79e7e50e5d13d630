"""The round loop over participants that answer by script: who is asked, what is refused, what is averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from flwr.app import Context, RecordDict

import server.rounds.roster
from common.adapter.adapter import Adapter, from_bytes, to_bytes
from common.errors import SottoError
from common.model.model import LoraModel
from server.rounds.rounds import run_rounds
from server.rounds.server_app import app
from server.run_directory.run_directory import RunDirectory
from server.tracking.observer import Observer
from simulations.local_grid import LocalGrid
from simulations.simulate import participants_of, simulated_organization
from tests.server.rounds.scripted import Scripted, change, constant, run


def test_rounds_add_the_mean_of_the_updates(start: Callable[..., RunDirectory]) -> None:
    directory = start()
    adapter = run(directory, Scripted("a", constant(0.25)), Scripted("b", constant(0.75)))
    assert change(directory, adapter) == pytest.approx(2 * 0.5)


def test_public_sizes_can_weigh(start: Callable[..., RunDirectory]) -> None:
    directory = start(aggregation={"weights": "public-size"}, training={"rounds": 1})
    adapter = run(directory, Scripted("a", constant(0.0), 300), Scripted("b", constant(1.0), 100))
    assert change(directory, adapter) == pytest.approx(0.25)


def bad_shape(adapter: Adapter) -> bytes:
    return to_bytes({name: np.zeros((1, *tensor.shape), np.float32) for name, tensor in adapter.items()})


def raises(adapter: Adapter) -> bytes:
    raise ValueError("the text of record 4711")


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (constant(float("nan")), "not finite"),
        (constant(float("inf")), "not finite"),
        (bad_shape, "shape"),
        (lambda _: b"garbage", "bytes"),
        (lambda _: to_bytes({}), "bytes"),
        (raises, "training-failed"),
    ],
    ids=["nan", "inf", "shape", "garbage", "empty", "exception"],
)
def test_what_is_no_update_is_refused_by_name_and_not_averaged(
    start: Callable[..., RunDirectory], hostile: Callable[[Adapter], bytes], said: str
) -> None:
    directory = start()
    adapter = run(
        directory, Scripted("a", constant(0.5)), Scripted("hostile", hostile), Scripted("c", constant(0.5))
    )
    assert change(directory, adapter) == pytest.approx(2 * 0.5)
    line = directory.rounds()[1]
    assert line.organizations["asked"] == ["a", "c", "hostile"]
    assert line.organizations["answered"] == ["a", "c"]
    assert said in line.organizations["refused"]["hostile"]
    assert "4711" not in str(line)


def test_every_request_carries_the_plan_and_the_newest_adapter(start: Callable[..., RunDirectory]) -> None:
    directory = start()
    first = Scripted("a", constant(0.5))
    run(directory, first, Scripted("b", constant(0.5)))
    assert [request.round for request in first.requests] == [1, 2]
    assert {request.plan for request in first.requests} == {directory.plan.canonical()}
    assert {request.run for request in first.requests} == {directory.info.run}
    second = from_bytes(first.requests[1].adapter, directory.trained_shapes)
    assert change(directory, second) == pytest.approx(0.5)


def test_two_organizations_of_one_name_end_the_run_before_the_first_round(
    start: Callable[..., RunDirectory],
) -> None:
    one, two = Scripted("a", constant(0.5)), Scripted("a", constant(0.5))
    with pytest.raises(SottoError, match="two organizations have the name 'a'"):
        run(start(), one, two)
    assert one.requests == two.requests == []


def test_too_few_organizations_end_the_run_in_time(start: Callable[..., RunDirectory]) -> None:
    only = Scripted("a", constant(0.5))
    with pytest.raises(SottoError, match="1 organizations are connected; the plan needs 2"):
        run(start(federation={"round_timeout": 0.2}), only)
    assert only.requests == []


def test_a_round_begins_when_those_who_left_are_back(
    start: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay died between two rounds: its organization comes back seconds later."""
    monkeypatch.setattr(server.rounds.roster, "_REFRESH_SECONDS", 0.0)

    class Leaving(LocalGrid):
        looks = 0

        def get_node_ids(self) -> Iterable[int]:
            if directory.rounds() and directory.rounds()[-1].round == 1:
                self.looks += 1
                return [1] if self.looks < 3 else [1, 2]
            return super().get_node_ids()

    class Waiting(Observer):
        said: ClassVar[list[list[str]]] = []

        def waiting(self, connected: Iterable[str], needed: int) -> None:
            self.said.append(list(connected))

    directory = start()
    grid = Leaving({1: Scripted("a", constant(0.5)), 2: Scripted("b", constant(0.5))})
    run_rounds(grid, directory, None, Waiting())
    assert [line.organizations["answered"] for line in directory.rounds()[1:]] == [["a", "b"]] * 2
    assert Waiting.said[-1] == ["a"]


def test_the_server_app_runs_a_run_directory(start: Callable[..., RunDirectory], tiny_base: Path) -> None:
    directory = start(training={"rounds": 1})
    plan = directory.plan
    records = {name: [{"text": f"{name} {number} has a parcel"} for number in range(30)] for name in ("a", "b")}
    organizations = {name: simulated_organization(name, plan, 30) for name in records}
    grid = LocalGrid(participants_of(directory, organizations, records, LoraModel(str(tiny_base), plan)))
    config = {"run-directory": str(directory.path)}
    app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config))
    assert directory.latest_checkpoint()[0] == 1
    assert [statement.organization for statement in directory.statements.read()] == ["a", "b"]

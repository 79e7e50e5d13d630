"""The round loop over participants that answer by script: who is asked, what is refused, what is averaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from flwr.app import Context, RecordDict

import server.rounds.roster
from common.adapter.adapter import Adapter, from_bytes, initial, to_bytes
from common.errors import Refused, SottoError
from common.model.model import LoraModel
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Statement
from common.tasks.class_report import class_report
from server.rounds.rounds import run_rounds
from server.rounds.server_app import app
from server.run.start import start_run
from server.run_directory.evaluation import Evaluation
from server.run_directory.round_log import RoundLine
from server.run_directory.run_directory import RunDirectory
from server.tracking.observer import Observer
from simulations.local_grid import LocalGrid
from simulations.simulate import participants_of, simulated_organization
from tests.conftest import MakePlan


class Scripted:
    """Answers each request with what a function makes of it."""

    def __init__(self, name: str, update: Callable[[Adapter], bytes], public_size: int = 100) -> None:
        self._name = name
        self._update = update
        self._public_size = public_size
        self.requests: list[TrainRequest] = []

    def describe(self) -> Description:
        return Description(self._name, "example", self._public_size)

    def train(self, request: TrainRequest) -> Release:
        self.requests.append(request)
        return Release(self._update(from_bytes(request.adapter, SHAPES)))

    def statement(self, run: str) -> Statement:
        raise Refused("malformed-request", run)


SHAPES: dict[str, tuple[int, ...]] = {}


def constant(value: float) -> Callable[[Adapter], bytes]:
    return lambda adapter: to_bytes({name: np.full_like(tensor, value) for name, tensor in adapter.items()})


@pytest.fixture
def start(make_plan: MakePlan, tiny_base: Path, tmp_path: Path) -> Callable[..., RunDirectory]:
    def make(**sections: Any) -> RunDirectory:
        plan = make_plan(**sections)
        model = LoraModel(str(tiny_base), plan)
        directory = start_run(plan, tmp_path / plan.name, private=True, model=model)
        SHAPES.clear()
        SHAPES.update(directory.trained_shapes)
        return directory

    return make


def change(directory: RunDirectory, adapter: Adapter) -> float:
    """The common change of every coordinate since round 0."""
    before = initial(directory.trained_shapes, 0)
    values = np.concatenate([(adapter[name] - before[name]).ravel() for name in adapter])
    assert np.allclose(values, values[0])
    return float(values[0])


def run(directory: RunDirectory, *participants: Scripted) -> Adapter:
    grid = LocalGrid(dict(enumerate(participants, start=1)))
    return run_rounds(grid, directory, None, Observer())


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


# Patience


class Curve:
    """Says of an adapter the perplexity that is written for its round; each round adds 0.5 to every coordinate."""

    def __init__(self, directory: RunDirectory, *values: float) -> None:
        self._directory = directory
        self._values = values

    def __call__(self, adapter: Adapter) -> Evaluation:
        number = round(change(self._directory, adapter) / 0.5)
        right = [0] * number + [1] * (20 - number)
        classes = class_report(right, [[1.0, 0.0]] * 20, ["no", "yes"])
        return Evaluation({"perplexity": self._values[number], "loss": -float(number)}, classes)


class StopAfter(Observer):
    """Interrupts a run as Ctrl-C does, when a round is complete or when its first answer is there."""

    def __init__(self, number: int, *, answered: bool) -> None:
        self._left = number
        self._answered = answered

    def answered(self, organization: str) -> None:
        if self._answered and organization == "a":
            self._count()

    def finished(self, line: RoundLine) -> None:
        if not self._answered and line.round:
            self._count()

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


FALLING = (9.0, 7.0, 5.0, 6.0, 5.0, 4.0, 3.0)


def run_curve(
    directory: RunDirectory, *values: float, observer: Observer | None = None
) -> tuple[float, list[int], list[int]]:
    """By how much the result differs from round 0, the rounds that were asked for, and those that are written."""
    first = Scripted("a", constant(0.5))
    grid = LocalGrid({1: first, 2: Scripted("b", constant(0.5))})
    adapter = run_rounds(grid, directory, Curve(directory, *values), observer or Observer())
    asked = [request.round for request in first.requests]
    return change(directory, adapter), asked, [line.round for line in directory.rounds()]


@pytest.mark.parametrize(
    ("rounds", "every", "patience", "values", "best", "last"),
    [
        (6, 1, 2, FALLING, 2, 4),  # round 4 is as good as round 2, and no better
        (6, 1, 3, FALLING, 6, 6),
        (6, 1, 1, FALLING, 2, 3),
        (4, 1, 2, FALLING, 2, 4),  # out of patience after the last round
        (3, 1, 9, FALLING, 2, 3),  # patient to the end, and still the best one
        (6, 1, 2, (5.0, math.nan, math.nan, 1.0), 0, 2),
        (6, 1, 2, (math.nan, 6.0, math.inf, 7.0, 1.0), 1, 3),
        (6, 2, 2, (5.0, 1.0, 6.0, 1.0, 7.0, 1.0, 1.0), 0, 4),  # evaluations, not rounds
        (3, 1, None, (5.0, 1.0, 6.0, 7.0), 3, 3),
    ],
)
def test_patience_ends_a_run_and_its_result_is_the_best_evaluation(
    start: Callable[..., RunDirectory],
    rounds: int,
    every: int,
    patience: int | None,
    values: tuple[float, ...],
    best: int,
    last: int,
) -> None:
    evaluation = {"data": "public.jsonl", "every": every, "patience": patience}
    directory = start(training={"rounds": rounds}, evaluation=evaluation)
    moved, asked, written = run_curve(directory, *values)
    assert moved == pytest.approx(0.5 * best)
    assert asked == list(range(1, last + 1))
    assert written == list(range(last + 1))
    assert directory.latest_checkpoint()[0] == last  # those after the best are kept


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_interrupted_run_stops_where_a_whole_one_does(
    start: Callable[..., RunDirectory], number: int, answered: bool
) -> None:
    directory = start(training={"rounds": 6}, evaluation={"data": "public.jsonl", "patience": 2})
    with pytest.raises(KeyboardInterrupt):
        run_curve(directory, *FALLING, observer=StopAfter(number, answered=answered))
    moved, asked, written = run_curve(RunDirectory.open(directory.path), *FALLING)
    assert moved == pytest.approx(0.5 * 2)
    assert asked == list(range(number + (not answered), 5))
    assert written == [0, 1, 2, 3, 4]


def test_a_run_that_stopped_early_stays_complete(start: Callable[..., RunDirectory]) -> None:
    directory = start(training={"rounds": 6}, evaluation={"data": "public.jsonl", "patience": 2})
    first = run_curve(directory, *FALLING)
    moved, asked, written = run_curve(RunDirectory.open(directory.path), *FALLING)
    assert (moved, asked, written) == (first[0], [], [0, 1, 2, 3, 4])


def test_what_is_kept_of_an_evaluation_is_of_the_round_that_is_the_result(
    start: Callable[..., RunDirectory],
) -> None:
    for patience, kept in ((2, 2), (None, 6)):
        directory = start(
            training={"rounds": 6}, evaluation={"data": "public.jsonl", "patience": patience}, name=f"run-{kept}"
        )
        run_curve(directory, *FALLING)
        stored = json.loads((directory.path / "evaluation.json").read_text())
        assert stored["round"] == kept
        assert stored["classes"]["matrix"] == [[kept, 0], [20 - kept, 0]]


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
    monkeypatch.setattr(server.rounds.roster, "_LOOK_SECONDS", 0.0)

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


def test_the_server_app_says_complete_when_patience_ends_the_run(
    start: Callable[..., RunDirectory], tiny_base: Path, tmp_path: Path
) -> None:
    records = {name: [{"text": f"{name} {number} has a parcel"} for number in range(30)] for name in ("a", "b")}
    public = tmp_path / "public.jsonl"
    public.write_text("".join(json.dumps(record) + "\n" for record in records["a"]))
    # So short a step that no prediction changes: equal is no better.
    directory = start(
        training={"rounds": 5, "learning_rate": 1e-30}, evaluation={"data": str(public), "patience": 1}
    )
    plan = directory.plan
    organizations = {name: simulated_organization(name, plan, 30) for name in records}
    grid = LocalGrid(participants_of(directory, organizations, records, LoraModel(str(tiny_base), plan)))
    config = {"run-directory": str(directory.path)}
    app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config))
    status = directory.status.read()
    assert status is not None
    assert status.state == "complete"
    assert [line.round for line in directory.rounds()] == [0, 1]
    assert [statement.mechanisms[0].steps for statement in directory.statements.read()] == [
        10,
        10,
    ]  # the whole run

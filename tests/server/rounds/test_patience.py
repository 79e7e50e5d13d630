"""TaskWaiter: a run whose evaluations get no better ends, and its result is the best of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from common.adapter.adapter import Adapter
from common.model.model import LoraModel
from common.run.evaluation import Evaluation
from common.run.round_line import RoundLine
from common.tasks.class_report import class_report
from server.rounds.rounds import run_rounds
from server.rounds.server_app import app
from server.run_directory.run_directory import RunDirectory
from server.tracking.observer import Observer
from simulations.local_grid import LocalGrid
from simulations.simulate import participants_of, simulated_organization
from tests.server.rounds.scripted import Scripted, change, constant


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

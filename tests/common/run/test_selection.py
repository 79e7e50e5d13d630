"""Which evaluation is the best, when a run has no more patience, and what is said of it: by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from common.plan.plan import Plan
from common.run.round_line import RoundLine
from common.run.selection import best_evaluation, evaluated_line, is_finished, result_line, selection_note
from common.settings import validate
from tests.common.report.sample_run import PLAN, classes_plan

NAN, INF = math.nan, math.inf


def plan(patience: int | None, kind: str = "classification", rounds: int = 20) -> Plan:
    values: dict[str, Any] = (classes_plan(["no", "yes"]) if kind == "classification" else PLAN).model_dump(
        exclude_none=True
    )
    values["training"] = {**values["training"], "rounds": rounds}
    values["evaluation"] = {"data": "public.jsonl", **({"patience": patience} if patience else {})}
    return validate(values, Plan, "the test's plan")


def lines(name: str, *values: float | None) -> list[RoundLine]:
    return [
        RoundLine(number, {}, metrics={} if value is None else {name: value, "loss": -number})
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "best", "since"),
    [
        ((0.5,), 0, 0),
        ((0.5, 0.6, 0.7), 2, 0),
        ((0.5, 0.7, 0.7, 0.6), 1, 2),  # equal is no better
        ((0.5, None, 0.6, None, None), 2, 0),  # rounds that were not evaluated do not count
        ((0.9, 0.6, None, 0.7), 0, 2),
        ((0.5, NAN, NAN), 0, 2),
        ((NAN, NAN, 0.1, NAN), 2, 1),
        ((NAN, NAN), 0, 1),
    ],
)
def test_more_accuracy_is_better(values: tuple[float | None, ...], best: int, since: int) -> None:
    line, waited = best_evaluation(plan(3), lines("accuracy", *values))
    assert line is not None
    assert (line.round, waited) == (best, since)


@pytest.mark.parametrize(
    ("values", "best", "since"),
    [((9.0, 8.0, 8.5), 1, 1), ((9.0, INF, 8.0), 2, 0), ((INF, 7.0, NAN, NAN), 1, 2), ((5.0, 6.0), 0, 1)],
)
def test_less_perplexity_is_better(values: tuple[float, ...], best: int, since: int) -> None:
    line, waited = best_evaluation(plan(3, "causal-lm"), lines("perplexity", *values))
    assert line is not None
    assert (line.round, waited) == (best, since)


def test_without_an_evaluation_there_is_no_best_one() -> None:
    assert best_evaluation(plan(3), lines("accuracy", None, None)) == (None, 0)
    assert evaluated_line(plan(3), lines("accuracy", None, None)) is None
    assert evaluated_line(plan(None), []) is None
    assert result_line(plan(3), lines("accuracy", None, None)).round == 1


def test_a_run_is_over_after_as_many_evaluations_as_it_has_patience() -> None:
    assert not is_finished(plan(2), lines("accuracy", 0.5, 0.6, 0.5))
    assert is_finished(plan(2), lines("accuracy", 0.5, 0.6, 0.5, 0.4))
    assert not is_finished(plan(3), lines("accuracy", 0.5, 0.6, 0.5, 0.4))
    assert not is_finished(plan(None), lines("accuracy", 0.5, *[0.1] * 19))
    assert is_finished(plan(None), lines("accuracy", 0.5, *[0.1] * 20))


def test_with_patience_the_result_is_the_best_evaluation_and_else_the_last_round() -> None:
    found = lines("accuracy", 0.5, 0.8, 0.7, None)
    assert result_line(plan(5), found).round == 1
    assert result_line(plan(None), found).round == 3
    assert evaluated_line(plan(None), found) is found[2]


def test_what_is_said_of_the_choice() -> None:
    stopped = lines("accuracy", 0.5, 0.8, 0.7, 0.7)
    assert selection_note(plan(2), stopped, private=True) == (
        "The run stopped early, after round 3 of 20: no better accuracy for 2 evaluations in a row. "
        "The result is the adapter after round 1, whose accuracy on the public data was the best. "
        "All 20 rounds were charged before the first one and stay charged."
    )
    assert "charged" not in selection_note(plan(2), stopped, private=False)
    # All rounds were run: nothing was stopped, the choice remains.
    whole = selection_note(plan(2, rounds=3), stopped, private=True)
    assert whole == "The result is the adapter after round 1, whose accuracy on the public data was the best."
    worse = selection_note(plan(1), lines("accuracy", 0.5, 0.4), private=True)
    assert "no better accuracy for one evaluation. " in worse
    assert "the adapter of round 0: no round bettered the base model's accuracy" in worse
    assert selection_note(plan(3), stopped, private=True) == ""  # it goes on
    assert selection_note(plan(None), stopped, private=True) == ""

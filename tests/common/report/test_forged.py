"""Whatever a statement says that no vault could have said is found, and none of its numbers becomes a promise."""

from __future__ import annotations

import pytest

from common.keys.statement_key import StatementKey
from common.privacy.mechanism import Mechanism
from common.protocol.statement import Statement
from common.report.page import render_page
from common.report.report import build_report, problems
from common.run.round_line import RoundLine
from tests.common.report.forged import COSTS, FORGED, KEY, RENYI, Forged, renyi
from tests.common.report.pages import Page
from tests.common.report.reports import prv_epsilon
from tests.common.report.sample_run import PLAN, RUN, signed, statement, summary

CLINIC = StatementKey.generate()


@pytest.mark.parametrize("name", FORGED)
def test_a_false_statement_is_found_for_the_right_reason(name: str) -> None:
    forged = FORGED[name]
    stored = Statement.from_json(forged.statement().to_json())
    report = build_report(RUN, [stored], forged.keys, plan=PLAN)
    found = problems(report)
    assert len(found) == len(forged.problems), found
    for text, expected in zip(found, forged.problems, strict=True):
        assert text.startswith("st-mary: ")
        assert expected in text
    assert report["organizations"][0]["signature"] == forged.signature
    assert report["epsilon"] is None
    assert (
        report["guarantee"] == "No guarantee: no statement of this run holds. There is no guarantee for st-mary."
    )


@pytest.mark.parametrize("name", FORGED)
def test_the_headline_has_the_numbers_of_sound_statements_only(name: str) -> None:
    forged, honest = FORGED[name], signed(statement("clinic", 20_000), CLINIC)
    report = build_report(RUN, [honest, forged.statement()], {**forged.keys, "clinic": CLINIC.public}, plan=PLAN)
    assert "[clinic: (7.88, 4e-05) for one example]" in report["guarantee"]  # 7.8703, rounded up
    assert "There is no guarantee for st-mary." in report["guarantee"]
    assert "st-mary: (" not in report["guarantee"]
    assert report["epsilon"] == 7.8703


def _page(forged: Forged) -> str:
    honest = signed(statement("clinic", 20_000), CLINIC)
    report = build_report(RUN, [honest, forged.statement()], {**forged.keys, "clinic": CLINIC.public}, plan=PLAN)
    return Page(render_page(report, summary([RoundLine(number, {}) for number in range(21)]))).text


@pytest.mark.parametrize("name", ["renyi, nothing spent", "an unknown filter", "simulated, less noise"])
def test_the_page_shows_the_problem_and_promises_nothing_by_it(name: str) -> None:
    text = _page(FORGED[name])
    headline, rest = text.split("What each organization has spent")
    assert "Do not rely on this report: a statement does not hold" in headline
    for expected in FORGED[name].problems:
        assert f"{expected}." in headline
        assert f"{expected}." in rest[rest.index("Does not hold") :]
    assert "ε ≤ 7.88 largest privacy loss of an organization whose statement holds" in headline
    assert "what the organizations whose statements hold released" in headline
    # Its run costs more; the chart is of the statement that holds.
    assert "for clinic, whose run cost most" in rest


def test_the_honest_statements_that_the_forged_ones_are_made_from_hold() -> None:
    for item in (statement("st-mary"), statement("st-mary", **renyi(RENYI))):
        report = build_report(RUN, [signed(item, KEY)], {"st-mary": KEY.public}, plan=PLAN)
        assert problems(report) == []


@pytest.mark.slow
@pytest.mark.parametrize("values", COSTS)
def test_the_costs_in_the_table_are_those_of_opacus(values: tuple[float, float, int, float]) -> None:
    *mechanism, delta = values
    assert prv_epsilon(Mechanism(*mechanism), delta) == COSTS[values]

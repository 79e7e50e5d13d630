"""What the report says of quality: on public data, from files alone, and as good a page without them."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from common.plan.plan import Plan
from common.report.evaluation_charts import confusion_chart, reliability_chart
from common.report.page import render_page
from common.report.report import build_report
from common.run.evaluation import StoredEvaluation
from common.run.round_line import RoundLine
from common.tasks.class_report import ClassReport
from tests.common.report.evaluations import KEY, LABELS, section_of, told
from tests.common.report.pages import HOSTILE, Page
from tests.common.report.sample_run import PLAN, RUN, classes_plan, signed, statement, summary


def lines(*accuracy: float) -> list[RoundLine]:
    return [
        RoundLine(number, {}, metrics={"accuracy": value, "loss": 2.0 - value, "records": 9, "f1[billing]": 0.123})
        for number, value in enumerate(accuracy)
    ]


def page_of(plan: Plan, rounds: list[RoundLine], stored: StoredEvaluation | None = None) -> str:
    report = build_report(RUN, [signed(statement("st-mary"), KEY)], {"st-mary": KEY.public}, plan=PLAN)
    return render_page(report, summary(rounds, plan, evaluation=stored))


def test_the_base_model_stands_beside_the_result() -> None:
    text = section_of(page_of(PLAN, lines(0.25, 0.5, 0.75)))
    assert "9 records of the coordinator's own public data were evaluated" in text
    assert "metric base model after round 2 better is accuracy 0.25 0.75 higher loss 1.75 1.25 lower" in text
    assert "0.123" not in text  # that of one class is in the table of classes
    assert "Confusion" not in text


def test_what_is_no_number_or_without_end_is_said_in_words() -> None:
    rounds = [RoundLine(at, {}, metrics={"perplexity": value}) for at, value in enumerate((math.inf, math.nan))]
    assert "perplexity ∞ not a number lower" in section_of(page_of(PLAN, rounds))
    assert "perplexity – not a number lower" in section_of(page_of(PLAN, rounds[1:]))


def test_without_an_evaluation_there_is_no_section() -> None:
    page = page_of(PLAN, [RoundLine(0, {}), RoundLine(1, {})])
    assert "How good it is" not in page
    assert "The plan names no public data to evaluate on." in page
    assert "How good it is" not in page_of(PLAN, [])


def test_classes_are_shown_with_what_they_were_taken_for() -> None:
    stored = StoredEvaluation(2, told())
    page = page_of(classes_plan(LABELS), lines(0.1, 0.2, 6 / 9), stored)
    text = section_of(page)
    for expected in (
        "1 billing 0.833 0.833 0.833 6",
        "2 delivery 0.500 0.500 0.500 2",
        "3 refund 0.000 0.000 0.000 1",
        "6 of 9 texts were classified correctly.",
        "The most frequent confusion: billing was predicted as delivery (1 text).",
        "Expected calibration error 0.133, over 9 texts",  # 0.8 - 6/9
    ):
        assert expected in text, expected
    chart = confusion_chart(told())
    assert chart is not None
    # As they stand on the page: the numbers of the columns, then row by row what the matrix holds.
    found = re.findall(r'text-anchor: middle[^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>(\d+)</text>', chart.svg)
    placed = sorted((float(high), float(across), text) for across, high, text in found)
    assert "".join(text for _, _, text in placed) == "123510011100"


def test_charts_of_another_round_than_the_result_are_left_out() -> None:
    plan = classes_plan(LABELS, data="public.jsonl", patience=1)
    rounds = lines(0.1, 0.6, 0.3)
    assert "Confusion matrix" in page_of(plan, rounds, StoredEvaluation(1, told()))
    text = section_of(page_of(plan, rounds, StoredEvaluation(2, told())))
    assert "Confusion matrix" not in text
    assert "after round 1" in text
    assert "stopped early, after round 2 of 20" in text
    assert "stay charged" in text
    assert "Best after round 1: 0.6 (orange)" in Page(page_of(plan, rounds)).text


def test_of_many_classes_the_confusions_are_a_list() -> None:
    labels = [f"intent {at}" for at in range(77)]
    stored = StoredEvaluation(1, told(labels, [(5, 7)] * 3 + [(7, 5), (1, 1)]))
    text = section_of(page_of(classes_plan(labels), lines(0.1, 0.2), stored))
    assert "true class predicted class texts intent 5 intent 7 3 intent 7 intent 5 1" in text
    assert "Confusion matrix" not in text
    assert "Reliability" in text


@pytest.mark.parametrize("count", [2, 10, 20, 77])
def test_a_page_with_every_chart_loads_nothing_and_refers_to_what_is_there(count: int) -> None:
    labels = [f"{HOSTILE} {at}" if at % 2 else f"信用卡账单 {at}" for at in range(count)]
    pairs = [(at % count, at * 7 % count) for at in range(200)]
    plan = classes_plan([" ".join(label.split()) for label in labels])
    names = plan.task.labels or []
    page = page_of(plan, lines(0.1, 0.2), StoredEvaluation(1, told(names, pairs)))
    parsed = Page(page)
    assert parsed.open == []
    assert not {name for name, _ in parsed.tags} & {"script", "img", "image", "iframe", "object", "link", "a"}
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)
    values = [f"{key}={value}" for _, attributes in parsed.tags for key, value in attributes.items()]
    assert not [one for one in values if re.search(r"^src|^(href|style)=.*:(//|.*data:)|url\((?!#)", one)]
    ids = [str(attributes["id"]) for _, attributes in parsed.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {str(attributes["href"])[1:] for _, attributes in parsed.tags if "href" in attributes} <= set(ids)
    assert page == page_of(plan, lines(0.1, 0.2), StoredEvaluation(1, told(names, pairs)))


@settings(max_examples=6, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=200), min_size=2, max_size=4), st.integers(1, 10**12))
def test_any_names_and_counts_make_a_chart(names: list[str], count: int) -> None:
    report = told([str(at) for at in range(len(names))], [(0, 1), (1, 1)])
    values = report.to_dict()
    values["scores"] = [{**score, "name": name} for score, name in zip(values["scores"], names, strict=True)]
    values["matrix"] = [[count] * len(names)] * len(names)
    odd = TypeAdapter(ClassReport).validate_json(json.dumps(values))
    chart, other = confusion_chart(odd), reliability_chart(odd)
    assert chart is not None
    assert other is not None
    assert Page(f"<figure>{chart.svg}{other.svg}</figure>").open == []

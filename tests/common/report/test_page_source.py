"""The source of a report's page: it escapes what others wrote, and stands alone."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.privacy.mechanism import Mechanism
from common.report.charts import epsilon_chart, quality_chart
from common.report.page import render_page
from common.report.report import build_report
from common.run.round_line import RoundLine
from tests.common.report.pages import GOOD, HOSTILE, Page, page_of
from tests.common.report.sample_run import RUN, statement, summary

# What others wrote


@pytest.mark.parametrize(
    "field", ["organization", "unit", "adjacency", "boundary", "accountant", "key", "versions"]
)
def test_what_an_organization_writes_is_text_and_nothing_else(field: str) -> None:
    value: Any = {HOSTILE: HOSTILE} if field == "versions" else HOSTILE
    page = page_of(statement("st-mary", **{field: value}))
    parsed = Page(page)
    assert parsed.open == []
    names = {name for name, _ in parsed.tags}
    assert not names & {"script", "img", "iframe", "object", "link", "a", "form"}
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)
    assert "49" not in re.findall(r"\{\{ ?(\d+)", page)
    if field not in ("accountant", "key"):
        assert "<script>alert(1)</script>" in parsed.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_names_and_reasons_of_rounds_are_text() -> None:
    rounds = [RoundLine(1, {"asked": [HOSTILE], "answered": [], "refused": {HOSTILE: HOSTILE}})]
    rounds.append(RoundLine(2, {"asked": [], "answered": []}, metrics={HOSTILE: 3.0}))
    page = render_page(build_report(RUN, [GOOD], {}), summary(rounds))
    assert "<script" not in page
    assert "<img" not in page
    assert Page(page).open == []


def test_a_name_cannot_leave_its_comment_in_the_python_lines() -> None:
    page = page_of(statement("x\nimport os\u2028os.system('true')\r#"))
    code = re.search(r'<pre id="recompute">(.*?)</pre>', page, re.DOTALL)
    assert code is not None
    lines = html.unescape(code[1]).splitlines()
    assert [line for line in lines if "os.system" in line] == [line for line in lines if "  # x" in line]


def test_what_turns_the_direction_of_writing_is_taken_out() -> None:
    page = page_of(statement("st-mary", boundary="same\u202eresu\u0000"))
    assert "\u202e" not in page
    assert "\u0000" not in page


@settings(max_examples=5, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_name_makes_a_whole_page(name: str, boundary: str) -> None:
    page = page_of(statement(name, boundary=boundary))
    assert Page(page).open == []
    page.encode()


# It stands alone


def test_nothing_is_loaded_and_nothing_runs() -> None:
    page = page_of(GOOD)
    for attribute in (
        "src=",
        "srcset=",
        "<script",
        "<link",
        "@import",
        "http://",
        "https://",
        "javascript:",
    ):
        assert attribute not in page, attribute
    assert not re.findall(r"url\((?!#)", page)
    assert "default-src 'none'" in page
    for name, attributes in Page(page).tags:
        if "href" in attributes:
            assert name == "use"
            assert str(attributes["href"]).startswith("#")


def test_ids_are_unique_and_what_refers_to_them_finds_them() -> None:
    tags = Page(page_of(GOOD)).tags
    ids = [str(attributes["id"]) for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {str(attributes["href"])[1:] for _, attributes in tags if "href" in attributes} <= set(ids)


def test_charts_survive_what_is_odd() -> None:
    chart = epsilon_chart(Mechanism(1e-9, 5.0, 1), 0.0, 1e-5, 1, "_$\\alpha$<b>")
    assert "<b>" not in chart.svg
    assert quality_chart([]) is None
    assert quality_chart([(0, {})]) is None
    one = quality_chart([(0, {"accuracy": 0.0})])
    assert one is not None
    assert "0 before" in one.text
    assert quality_chart([(0, {}), (1, {"bleu": 2.0}), (2, {"bleu": 3.0})]) is not None

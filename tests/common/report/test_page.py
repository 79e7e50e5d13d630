"""The privacy report as a page: it says what is so of the run that it is read from."""

from __future__ import annotations

import contextlib
import html
import io
import re
from dataclasses import replace
from typing import Any

import pytest

from common.protocol.statement import Lifetime
from common.report.page import render_page
from common.report.report import build_report
from common.run.round_line import RoundLine
from tests.common.report.pages import CLINIC, GOOD, KEY, Page, page_of
from tests.common.report.sample_run import RUN, signed, simulated, statement, summary

# What it says


def test_the_page_has_the_numbers_of_the_run() -> None:
    spent = Lifetime(12.3, 16.0, 4e-5, "basic-composition-filter")
    clinic = signed(statement("clinic", 20_000, lifetime=spent), CLINIC)
    text = Page(page_of(GOOD, clinic)).text
    for expected in (
        "triage",
        RUN,
        "ε ≤ 12.30",
        "1 in 25,000",  # δ = 4e-5
        "by a factor of at most 219,696",  # e^12.3 = 219,695.99
        "that of clinic",
        "ε 7.80 of 16.00 (49 %)",  # 7.7999 of 16
        "ε 12.30 of 16.00 (77 %)",
        "0.0256 a step, Poisson",
        "9.3600, a looser bound",
        "same user: vault and relay run as one user",
        "entry 21, digest " + "ef" * 32,
        "opacus 1.6.0, python 3.11.7, sotto 0.1.0, torch 2.13.0",
        "signature valid",
        "a person with records at several organizations",
        "charged before its first round",
        "Perplexity on public data: 50 before the first round, 30 after round 20",
    ):
        assert expected in text, expected


def test_numbers_that_bound_are_rounded_towards_the_worse() -> None:
    spent = Lifetime(7.8011, 16.0, 3.3e-5, "basic-composition-filter")
    text = Page(page_of(signed(statement("st-mary", lifetime=spent), KEY))).text
    assert "ε ≤ 7.81" in text
    assert "1 in 30,303" in text  # 1 / 3.3e-5 = 30,303.03
    assert "at most 2,444" in text  # e^7.8011 = 2,443.29


def banner(page: str) -> str:
    return page[: page.index('id="guarantee"')]


def test_a_sound_run_has_no_banner() -> None:
    assert 'class="banner' not in page_of(GOOD)


@pytest.mark.parametrize(
    ("statements", "more", "said"),
    [
        ([simulated("st-mary")], {"keys": {}}, "A simulation protects nobody"),
        ([], {"private": False}, "Trained without privacy"),
        ([], {}, "No statements"),
        ([replace(GOOD, epsilon=2.0)], {}, "Do not rely on this report"),
        ([signed(statement("st-mary", epsilon=2.0), KEY)], {}, "its mechanism costs"),
        ([replace(GOOD, signature="")], {}, "altered or forged"),
        ([GOOD], {"keys": {}}, "registered no key"),
        ([GOOD], {"answered": ["clinic"]}, "No statement of clinic"),
    ],
)
def test_what_must_be_known_stands_above_everything(statements: Any, more: dict[str, Any], said: str) -> None:
    page = page_of(*statements, **more)
    assert 'class="banner' in banner(page)
    assert said in html.unescape(banner(page))


def test_a_statement_that_does_not_hold_makes_no_promise() -> None:
    text = Page(page_of(replace(GOOD, epsilon=2.0))).text
    assert "ε ≤" not in text
    assert "a proven limit" not in text
    assert "as stated" in text
    assert "signature INVALID" in text
    # Beside a sound one, the promise is the sound one's.
    weaker = Lifetime(15.0, 16.0, 4e-5, "basic-composition-filter")
    forged = signed(statement("clinic", lifetime=weaker), KEY)
    text = Page(page_of(GOOD, forged)).text
    assert "ε ≤ 7.80" in text
    assert "that of st-mary" in text


def test_without_privacy_nothing_is_promised() -> None:
    text = Page(page_of(private=False)).text
    assert "a proven limit" not in text
    assert "with noise added" not in text
    assert "update of the adapter a round, without noise" in text


def test_who_took_part_is_one_line_for_equal_rounds() -> None:
    rounds = [RoundLine(0, {})]
    for number in range(1, 10):
        refused = {"clinic": "budget: spent"} if number in (4, 5) else {}
        answered = ["bank"] if refused or number == 9 else ["bank", "clinic"]
        asked = ["bank", "clinic"] if number != 9 else ["bank"]
        rounds.append(RoundLine(number, {"asked": asked, "answered": answered, "refused": refused}))
    text = Page(render_page(build_report(RUN, [GOOD], {}), summary(rounds))).text
    part = text[text.index("Who took part") : text.index("An organization that misses")]
    assert part.split("st-mary ")[1] == (
        "1–3 ✓ answered ✓ answered – not connected "
        "4–5 ✓ answered ✕ budget: spent – not connected "
        "6–8 ✓ answered ✓ answered – not connected "
        "9 ✓ answered – not connected – not connected "
    )


def test_the_lines_of_python_on_the_page_give_the_epsilon_of_the_page() -> None:
    clinic = signed(statement("clinic", 20_000), CLINIC)
    page = page_of(GOOD, clinic)
    code = re.search(r'<pre id="recompute">(.*?)</pre>', page, re.DOTALL)
    assert code is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(html.unescape(code[1]), {})
    values = [float(line.split()[1]) for line in printed.getvalue().splitlines()]
    # Of dp_accounting with a finer grid: 7.7982 and 7.8686.
    assert values == pytest.approx([7.7982, 7.8686], abs=0.002)
    shown = [float(value) for value in re.findall(r"<dd>([\d.]+) \(PRV accountant\)", page)]
    assert all(-0.02 <= value - ours <= 0.001 for value, ours in zip(values, shown, strict=True))

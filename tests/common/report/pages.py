"""Pages of reports, as a browser reads them."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from common.keys.statement_key import StatementKey
from common.protocol.statement import Statement
from common.report.page import render_page
from common.report.report import build_report
from common.run.round_line import RoundLine
from tests.common.report.sample_run import PLAN, RUN, signed, statement, summary

KEY, CLINIC = StatementKey.generate(), StatementKey.generate()
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\n# ' {{ 7*7 }} $\\frac{1}{0}$"


class Page(HTMLParser):
    """What a browser would make of a page: tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "rect", "path", "use"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "path", "use"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def page_of(*statements: Statement, keys: dict[str, str] | None = None, private: bool = True, **more: Any) -> str:
    known = {"st-mary": KEY.public, "clinic": CLINIC.public} if keys is None else keys
    report = build_report(RUN, statements if private else [], known, plan=PLAN, **more)
    rounds = [RoundLine(number, {}, metrics={"perplexity": 50.0 - number}) for number in range(21)]
    return render_page(report, summary(rounds, private=private))


GOOD = signed(statement("st-mary"), KEY)

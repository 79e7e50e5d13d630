"""An evaluation by class, and the section that a page shows of it."""

from __future__ import annotations

from common.keys.statement_key import StatementKey
from common.tasks.class_report import ClassReport, class_report
from tests.common.report.pages import Page

KEY = StatementKey.generate()
LABELS = ["billing", "delivery", "refund"]
# Told right: 5 of 6, 1 of 2, 0 of 1.
PAIRS = [(0, 0)] * 5 + [(0, 1), (1, 1), (1, 2), (2, 0)]


def told(labels: list[str] = LABELS, pairs: list[tuple[int, int]] = PAIRS) -> ClassReport:
    """A report in which the class that was told always had the probability 0.8."""
    rest = 0.2 / (len(labels) - 1)
    chances = [[0.8 if at == second else rest for at in range(len(labels))] for _, second in pairs]
    return class_report([first for first, _ in pairs], chances, labels)


def section_of(page: str) -> str:
    """The words of the section about quality."""
    text = Page(page).text
    return text[text.index("How good it is") : text.index("The organizations")]

"""What the privacy report says of quality: on public data, the base model beside the result, class by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.plan.plan import Plan
from common.tasks.class_report import ClassReport
from server.report.charts import Chart
from server.report.evaluation_charts import confusion_chart, reliability_chart
from server.run_directory.evaluation import StoredEvaluation
from server.run_directory.round_log import RoundLine
from server.run_directory.selection import choice, evaluated_line

_LOWER = ("perplexity", "loss", "bits_per_byte", "calibration_error")
_HIGHER = ("accuracy", "macro_f1", "roc_auc", "f1", "exact_match", "bleu", "chrf", "rouge_l")
# Public numbers, but no measure of quality.
_SIZES = ("records", "tokens")
_MOST_METRICS = 30


@dataclass(frozen=True)
class EvaluationSection:
    """What the page shows.

    Attributes:
        round: after which the result was evaluated.
        records: how many there were; empty if it is not known.
        metrics: (name, of the base model, of the result, which is better).
        choice: why this round is the result, if there was a choice.
        classes: how well each class was told.
        confusion: the heat map of it.
        reliability: confidence against accuracy.
    """

    round: int
    records: str
    metrics: list[tuple[str, str, str, str]]
    choice: str
    classes: ClassReport | None = None
    confusion: Chart | None = None
    reliability: Chart | None = None


def evaluation_section(
    plan: Plan, rounds: Sequence[RoundLine], stored: StoredEvaluation | None, *, private: bool
) -> EvaluationSection | None:
    """What there is to show; None if nothing was evaluated.

    Args:
        plan: of the run.
        rounds: all lines of `rounds.jsonl`.
        stored: `evaluation.json`; left out if it is of another round than the result.
        private: whether anything was charged.
    """
    line = evaluated_line(plan, rounds)
    if line is None:
        return None
    before = rounds[0].metrics if rounds[0].round == 0 else {}
    names = [name for name in line.metrics if "[" not in name and name not in _SIZES][:_MOST_METRICS]
    metrics = [(name, _number(before.get(name)), _number(line.metrics[name]), _better(name)) for name in names]
    records = f"{line.metrics['records']:,}" if "records" in line.metrics else ""
    said = choice(plan, rounds, private=private)
    if stored is None or stored.round != line.round:
        return EvaluationSection(line.round, records, metrics, said)
    charts = confusion_chart(stored.classes), reliability_chart(stored.classes)
    return EvaluationSection(line.round, records, metrics, said, stored.classes, *charts)


def _better(name: str) -> str:
    return "lower" if name in _LOWER else "higher" if name in _HIGHER else ""


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return "not a number" if math.isnan(value) else f"{value:.4g}".replace("inf", "∞")

"""The report's section on quality: the result and the base model on public data, overall and by class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from common.report.charts import Chart
from common.report.evaluation_charts import confusion_chart, reliability_chart
from common.run.selection import evaluated_line, selection_note
from common.run.summary import RunSummary
from common.tasks.class_report import ClassReport

_LOWER = ("perplexity", "loss", "bits_per_byte", "calibration_error")
_HIGHER = ("accuracy", "macro_f1", "roc_auc", "f1", "exact_match", "bleu", "chrf", "rouge_l")
# Metrics that do not measure quality.
_SIZES = ("records", "tokens")
_MOST_METRICS = 30


@dataclass(frozen=True)
class EvaluationSection:
    """The contents of the section.

    Attributes:
        round: the evaluated model is the one after this round.
        records: number of records; empty if unknown.
        metrics: (name, value of the base model, value of the result, which is better).
        selection: why this round is the result; empty if it was not selected.
        classes: quality by class.
        confusion: heat map of the confusion matrix.
        reliability: chart of confidence against accuracy.
    """

    round: int
    records: str
    metrics: list[tuple[str, str, str, str]]
    selection: str
    classes: ClassReport | None = None
    confusion: Chart | None = None
    reliability: Chart | None = None


def evaluation_section(run: RunSummary) -> EvaluationSection | None:
    """Return the section for a run; None if nothing was evaluated.

    The stored evaluation is left out if it belongs to another round than the result.
    """
    line = evaluated_line(run.plan, run.rounds)
    if line is None:
        return None
    before = run.rounds[0].metrics if run.rounds[0].round == 0 else {}
    names = [name for name in line.metrics if "[" not in name and name not in _SIZES][:_MOST_METRICS]
    metrics = [(name, _number(before.get(name)), _number(line.metrics[name]), _better(name)) for name in names]
    records = f"{line.metrics['records']:,}" if "records" in line.metrics else ""
    section = EvaluationSection(
        line.round, records, metrics, selection_note(run.plan, run.rounds, private=run.private)
    )
    if run.evaluation is None or run.evaluation.round != line.round:
        return section
    classes = run.evaluation.classes
    confusion, reliability = confusion_chart(classes), reliability_chart(classes)
    return replace(section, classes=classes, confusion=confusion, reliability=reliability)


def _better(name: str) -> str:
    return "lower" if name in _LOWER else "higher" if name in _HIGHER else ""


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return "not a number" if math.isnan(value) else f"{value:.4g}".replace("inf", "∞")

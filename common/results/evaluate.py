"""Evaluation of a model on public data, overall and by group of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.adapter.adapter import Adapter
from common.errors import InputError
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.plan.task import TaskSection
from common.records import Record, read_records
from common.run.evaluation import Evaluation
from common.settings import validate
from common.tasks import Task, check_some_usable, make_task, predictions_on, usable
from common.tasks.class_report import ClassReport
from common.tasks.classification import Classification
from common.untrusted import printable

_RESAMPLES = 1000
_CONFIDENCE = 0.95


class PublicEvaluation:
    """Evaluates adapters on the plan's public data.

    Args:
        plan: with the data and the task.
        model: the base model with the plan's LoRA layers; its adapter is replaced at every call.

    Raises:
        InputError: the data cannot be read, or no record of it can be used for the task.
    """

    def __init__(self, plan: Plan, model: LoraModel) -> None:
        assert plan.evaluation.data is not None
        self._model = model
        self._task = make_task(plan.task, model.tokenizer)
        self._records = _records(self._task, plan.path(plan.evaluation.data), plan.task)

    def __call__(self, adapter: Adapter) -> Evaluation:
        """Evaluate an adapter."""
        self._model.load(adapter)
        return _evaluated(self._task, predictions_on(self._task, self._model.module, self._records))


@dataclass(frozen=True)
class Groups:
    """Metrics of groups of records.

    Attributes:
        metrics: value of the field → metrics of its records, the largest group first.
        headline: the compared metric.
        gap: difference of the compared metric between the best and the worst group.
        interval: 95 % confidence interval of the gap: percentiles of 1,000 bootstrap samples, in which each group
            is resampled from its own records (Efron & Tibshirani 1993, chapter 13). Noise alone also gives a gap
            above zero.
    """

    metrics: dict[str, dict[str, float]]
    headline: str
    gap: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"groups": self.metrics, "metric": self.headline, "gap": self.gap, "interval": list(self.interval)}


def task_section(plan: Plan | None, template: str | None) -> TaskSection:
    """Return the task to evaluate: the plan's, or by default next tokens; with `template` if it is given.

    Raises:
        InputError: the template does not fit the task.
    """
    values = plan.task.model_dump(exclude_none=True) if plan else {}
    if template is not None:
        values["template"] = template
    return validate(values, TaskSection, "--template" if template is not None else "the plan's task")


def print_evaluation(evaluation: Evaluation, groups: Groups | None, console: Console) -> None:
    """Print metrics as a table, followed by classes and groups."""
    names = [name for name in evaluation.metrics if "[" not in name]
    table = Table("metric", "value")
    for name in names:
        table.add_row(escape(name), f"{evaluation.metrics[name]:.6g}")
    console.print(table)
    if evaluation.classes is not None:
        _print_classes(evaluation.classes, console)
    if groups is not None:
        _print_groups(groups, [name for name in names if name != "records"], console)


def _print_classes(report: ClassReport, console: Console) -> None:
    if not report.scores:
        _print_confusions(report, console)
        return
    table = Table("", "class", "precision", "recall", "F1", "support")
    for place, score in enumerate(report.scores, start=1):
        numbers = (f"{value:.4g}" for value in (score.precision, score.recall, score.f1))
        table.add_row(str(place), escape(printable(score.name, 40)), *numbers, str(score.support))
    console.print(table)
    # Numbers instead of names, and no frame: twenty classes fit without truncated columns.
    width = max(len(str(count)) for row in report.matrix for count in (*row, len(report.matrix)))
    lines = [(place, *row) for place, row in enumerate(report.matrix, start=1)]
    for first, *row in [("", *range(1, len(lines) + 1)), *lines]:
        console.print(f"{first:>4} ", *(f"{count:>{width}}" for count in row), highlight=False, soft_wrap=True)
    console.print("confusion matrix: true classes in rows, predicted classes in columns", highlight=False)


def _print_confusions(report: ClassReport, console: Console) -> None:
    table = Table("true class", "predicted class", "count", title="most frequent confusions", title_justify="left")
    for pair in report.confusions:
        table.add_row(escape(printable(pair.right, 40)), escape(printable(pair.told, 40)), str(pair.count))
    console.print(table if report.confusions else "no class was confused with another")


def _print_groups(groups: Groups, names: Sequence[str], console: Console) -> None:
    table = Table("group", "records", *map(escape, names))
    for group, values in groups.metrics.items():
        row = [f"{values[name]:.4g}" if name in values else "" for name in names]
        table.add_row(escape(printable(group, 60)), f"{values['records']:g}", *row)
    console.print(table)
    low, high = groups.interval
    console.print(
        f"largest gap of {groups.headline} between groups: {groups.gap:.4g} (95 %: {low:.4g} to {high:.4g})",
        highlight=False,
    )


def to_flat(evaluation: Evaluation) -> dict[str, float]:
    """Return all metrics by name, including those of classes: `support[class]`, `confusion[true][predicted]`."""
    return {**evaluation.metrics, **(evaluation.classes.flat() if evaluation.classes else {})}


def evaluate(
    model: Any, tokenizer: Any, section: TaskSection, data: Path, by: str | None = None
) -> tuple[Evaluation, Groups | None]:
    """Evaluate a model on a file of records.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        section: the task.
        data: the file.
        by: a field of the records; its values are compared as groups.

    Returns:
        The evaluation of all records, and the groups; None without `by`.

    Raises:
        InputError: the data cannot be read, no record of it can be used for the task, or no record has the field.
    """
    task = make_task(section, tokenizer)
    records = _records(task, data, section)
    if by is not None and not any(by in record for record in records):
        known = ", ".join(sorted({key for record in records for key in record})[:8])
        raise InputError(f"--by {by}: no record of {data} has such a field; they have: {known}")
    predictions = task.predict(model, records)
    groups = (
        None
        if by is None
        else compare(task, section.headline[0], predictions, [str(record.get(by, "")) for record in records])
    )
    return _evaluated(task, predictions), groups


def compare(task: Task, name: str, predictions: Sequence[Any], values: Sequence[str]) -> Groups:
    """Compare groups of predictions.

    Args:
        task: of the predictions.
        name: of its headline metric.
        predictions: at least one.
        values: group of each prediction.
    """
    members: dict[str, list[Any]] = {}
    for value, prediction in zip(values, predictions, strict=True):
        members.setdefault(value, []).append(prediction)
    ordered = dict(sorted(members.items(), key=lambda item: (-len(item[1]), item[0])))
    metrics = {value: task.metrics(group) for value, group in ordered.items()}
    random = np.random.default_rng(0)
    gaps = []
    for _ in range(_RESAMPLES if len(ordered) > 1 else 0):
        sample = [
            task.score([group[at] for at in random.integers(len(group), size=len(group))])
            for group in ordered.values()
        ]
        gaps.append(max(sample) - min(sample))
    scores = [group[name] for group in metrics.values()]
    tail = (1 - _CONFIDENCE) / 2
    interval = np.quantile(gaps, [tail, 1 - tail]) if gaps else (0.0, 0.0)
    return Groups(metrics, name, max(scores) - min(scores), (float(interval[0]), float(interval[1])))


def _evaluated(task: Task, predictions: Sequence[Any]) -> Evaluation:
    classes = task.class_report(predictions) if isinstance(task, Classification) else None
    return Evaluation(task.metrics(predictions), classes)


def _records(task: Task, path: Path, section: TaskSection) -> list[Record]:
    """Read the records of a file that can be used for a task."""
    records = read_records(path)
    check_some_usable(task, section, records, str(path))
    return [records[place] for place in dict.fromkeys(usable(task, records)[0])]

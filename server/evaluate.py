"""How good a model is, on public data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.adapter import Adapter
from common.errors import InputError
from common.model import LoraModel
from common.plan import Plan
from common.plan import Task as TaskSection
from common.records import read_records
from common.tasks import Example, Task, make_task


class PublicEvaluation:
    """Metrics of an adapter on the plan's public data.

    Args:
        plan: names the data and the task.
        model: the base model with the plan's LoRA layers; its adapter is replaced at every call.

    Raises:
        InputError: the data cannot be read, or no record of it fits the task.
    """

    def __init__(self, plan: Plan, model: LoraModel) -> None:
        assert plan.evaluation.data is not None
        self._model = model
        self._task = make_task(plan.task, model.tokenizer)
        self._examples = _examples(self._task, plan.path(plan.evaluation.data), plan.task)

    def __call__(self, adapter: Adapter) -> dict[str, float]:
        """Metric names and numbers."""
        self._model.load(adapter)
        return self._task.evaluate(self._model.module, self._examples)


def evaluate(model: Any, tokenizer: Any, section: TaskSection, data: Path) -> dict[str, float]:
    """Metrics of any model on a file of records.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        section: the task, as a plan says it.
        data: JSON Lines.

    Raises:
        InputError: the data cannot be read, or no record of it fits the task.
    """
    task = make_task(section, tokenizer)
    return task.evaluate(model, _examples(task, data, section))


def _examples(task: Task, path: Path, section: TaskSection) -> list[Example]:
    records = read_records(path)
    examples = [example for record in records if (example := task.encode(record)) is not None]
    if not examples:
        needed = ", ".join(section.fields)
        raise InputError(f"{path}: none of {len(records)} records has the fields of task.template: {needed}")
    return examples

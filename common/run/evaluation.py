"""The quality of a model on public data. Nothing here is ever computed from private records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import ConfigDict, Field

from common.tasks.class_report import ClassReport


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a model on public data.

    Attributes:
        metrics: metric name → value.
        classes: quality by class, for classification tasks.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    classes: ClassReport | None = None


@dataclass(frozen=True)
class StoredEvaluation:
    """What a run stores of an evaluation beside the metrics in `rounds.jsonl`: the contents of `evaluation.json`.

    Attributes:
        round: the evaluated model is the one after this round.
        classes: quality by class, for the classes of the plan.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    round: Annotated[int, Field(ge=0)]
    classes: ClassReport

"""A run as reports, model cards and evaluations see it, independent of where its files are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.adapter.adapter import Shapes
from common.plan.plan import Plan
from common.run.evaluation import StoredEvaluation
from common.run.round_line import RoundLine


@dataclass(frozen=True)
class RunSummary:
    """A run, complete or still in progress.

    Attributes:
        run: the run's id.
        plan: of the run.
        private: False for a simulation without privacy.
        fingerprint: of the base model.
        shapes: of every LoRA tensor, including those that are not trained.
        rounds: in ascending order, from round 0.
        evaluation: the stored evaluation of the result; None if there is none.
    """

    run: str
    plan: Plan
    private: bool
    fingerprint: str
    shapes: Shapes
    rounds: Sequence[RoundLine]
    evaluation: StoredEvaluation | None = None

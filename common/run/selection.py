"""Early stopping, and selection of the round whose adapter is the result of a run: pure functions.

Both depend on the plan and the round lines only, so that a resumed run decides as an uninterrupted one. Selection
by public data costs no ε, and early stopping returns none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.plan.plan import Plan
from common.run.round_line import RoundLine


def best_evaluation(plan: Plan, rounds: Sequence[RoundLine]) -> tuple[RoundLine | None, int]:
    """Return the best evaluation, the first if several are equal, and the number of evaluations after it.

    The evaluation of the base model, round 0, is included. NaN is worse than any number.

    Args:
        plan: its task defines the headline metric, and whether larger values are better.
        rounds: in ascending order; rounds without this metric are ignored.
    """
    name, larger_is_better = plan.task.headline
    best: RoundLine | None = None
    since = 0
    for line in rounds:
        if name not in line.metrics:
            continue
        if best is None or _is_better(line.metrics[name], best.metrics[name], larger_is_better):
            best, since = line, 0
        else:
            since += 1
    return best, since


def is_finished(plan: Plan, rounds: Sequence[RoundLine]) -> bool:
    """Return whether a run is finished: after its last round, or after the plan's patience is exhausted."""
    patience = plan.evaluation.patience
    last = rounds[-1].round if rounds else -1
    if last >= plan.training.rounds:
        return True
    return patience is not None and best_evaluation(plan, rounds)[1] >= patience


def result_line(plan: Plan, rounds: Sequence[RoundLine]) -> RoundLine:
    """Return the round whose adapter is the result: the best evaluation if the plan has patience, else the last.

    Args:
        plan: of the run.
        rounds: in ascending order, at least one.
    """
    best = best_evaluation(plan, rounds)[0] if plan.evaluation.patience is not None else None
    return best or rounds[-1]


def evaluated_line(plan: Plan, rounds: Sequence[RoundLine]) -> RoundLine | None:
    """Return the evaluation of the result, or of the result so far; None if there is none."""
    if plan.evaluation.patience is not None:
        return best_evaluation(plan, rounds)[0]
    return next((line for line in reversed(rounds) if line.metrics), None)


def selection_note(plan: Plan, rounds: Sequence[RoundLine], *, private: bool) -> str:
    """Describe the selection of the result in sentences.

    Args:
        plan: of the run.
        rounds: in ascending order.
        private: whether privacy budget was charged.

    Returns:
        The sentences; empty without patience, or while the run is in progress.
    """
    best, since = best_evaluation(plan, rounds)
    if plan.evaluation.patience is None or best is None or not is_finished(plan, rounds):
        return ""
    (name, _), last, planned = plan.task.headline, rounds[-1].round, plan.training.rounds
    sentences = [
        f"The result is the adapter after round {best.round}, whose {name} on the public data was the best."
    ]
    if best.round == 0:
        sentences = [
            f"The result is the adapter of round 0: no round bettered the base model's {name} on the public data."
        ]
    if last < planned:
        times = "one evaluation" if since == 1 else f"{since} evaluations in a row"
        sentences.insert(
            0, f"The run stopped early, after round {last} of {planned}: no better {name} for {times}."
        )
        if private:
            sentences.append(f"All {planned} rounds were charged before the first one and stay charged.")
    return " ".join(sentences)


def _is_better(value: float, best: float, larger_is_better: bool) -> bool:
    if math.isnan(value) or math.isnan(best):
        return not math.isnan(value)
    return value > best if larger_is_better else value < best

"""Which round's adapter is the result of a run, and when a run ends before its last round: pure functions.

Both follow from the plan and the lines of `rounds.jsonl` alone, so that a run that was interrupted decides as one
that was not. To choose by public data costs no ε; to stop gives none back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.plan.plan import Plan
from server.run_directory.round_log import RoundLine


def best_evaluation(plan: Plan, rounds: Sequence[RoundLine]) -> tuple[RoundLine | None, int]:
    """The first evaluation that none is better than, and how many came after it.

    The base model's, round 0, is one of them. What is no number is better than nothing.

    Args:
        plan: its task says which metric counts, and whether more of it is better.
        rounds: lines in the order of the rounds; those without that metric are passed over.
    """
    name, more = plan.task.headline
    best: RoundLine | None = None
    since = 0
    for line in rounds:
        if name not in line.metrics:
            continue
        if best is None or _is_better(line.metrics[name], best.metrics[name], more=more):
            best, since = line, 0
        else:
            since += 1
    return best, since


def is_over(plan: Plan, rounds: Sequence[RoundLine]) -> bool:
    """Whether a run has done what it is to do: all rounds, or so many that the plan has no more patience."""
    patience = plan.evaluation.patience
    last = rounds[-1].round if rounds else -1
    if last >= plan.training.rounds:
        return True
    return patience is not None and best_evaluation(plan, rounds)[1] >= patience


def result_line(plan: Plan, rounds: Sequence[RoundLine]) -> RoundLine:
    """The line of the round whose adapter is the result: of the best evaluation with patience, else of the last.

    Args:
        plan: of the run.
        rounds: lines in the order of the rounds, at least one.
    """
    best = best_evaluation(plan, rounds)[0] if plan.evaluation.patience is not None else None
    return best or rounds[-1]


def evaluated_line(plan: Plan, rounds: Sequence[RoundLine]) -> RoundLine | None:
    """The evaluation that speaks for the result, or for what is there so far; None if there was none."""
    if plan.evaluation.patience is not None:
        return best_evaluation(plan, rounds)[0]
    return next((line for line in reversed(rounds) if line.metrics), None)


def choice(plan: Plan, rounds: Sequence[RoundLine], *, private: bool) -> str:
    """What is to be said of the choice of the result, in sentences.

    Args:
        plan: of the run.
        rounds: lines in the order of the rounds.
        private: whether anything was charged.

    Returns:
        Nothing without patience, or while the run lasts.
    """
    best, since = best_evaluation(plan, rounds)
    if plan.evaluation.patience is None or best is None or not is_over(plan, rounds):
        return ""
    (name, _), last, planned = plan.task.headline, rounds[-1].round, plan.training.rounds
    said = [f"The result is the adapter after round {best.round}, whose {name} on the public data was the best."]
    if best.round == 0:
        said = [
            f"The result is the adapter of round 0: no round bettered the base model's {name} on the public data."
        ]
    if last < planned:
        times = "one evaluation" if since == 1 else f"{since} evaluations in a row"
        said.insert(0, f"The run stopped early, after round {last} of {planned}: no better {name} for {times}.")
        if private:
            said.append(f"All {planned} rounds were charged before the first one and stay charged.")
    return " ".join(said)


def _is_better(value: float, best: float, *, more: bool) -> bool:
    if math.isnan(value) or math.isnan(best):
        return not math.isnan(value)
    return value > best if more else value < best

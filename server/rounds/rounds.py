"""The round loop: send the adapter, wait for the updates, aggregate, evaluate on public data, write a checkpoint.

Independent of the transport, which is the Flower grid's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from common.adapter.adapter import Adapter
from common.errors import SottoError
from common.flower import codec
from common.run.evaluation import Evaluation
from common.run.round_line import RoundLine
from common.run.selection import is_finished, result_line
from server.registry.members import Members
from server.rounds.exchange import exchange
from server.rounds.roster import Roster
from server.rounds.statements import collect_statements
from server.rounds.strategy import LoraAveraging, Outcome, organizations_needed
from server.rounds.waiting import check_ranks, wait_for_organizations
from server.run_directory.evaluation import write_evaluation
from server.run_directory.run_directory import RunDirectory
from server.tracking.observer import Observer

Evaluator = Callable[[Adapter], Evaluation]


def run_rounds(grid: Grid, directory: RunDirectory, evaluate: Evaluator | None, observer: Observer) -> Adapter:
    """Run the remaining rounds of a run.

    Args:
        grid: connected to the organizations.
        directory: of the run; starts from its latest checkpoint.
        evaluate: evaluates an adapter on public data; None without such data.
        observer: notified of the progress.

    Returns:
        The adapter that is released after the last round; with `evaluation.patience`, that of the best evaluation.

    Raises:
        InputError: an organization trains at a rank that the plan's method cannot aggregate.
        SottoError: too few organizations are connected or answered; the run can be resumed.
    """
    plan, info = directory.plan, directory.info
    done, state = directory.checkpoints.latest()
    folder = info.registry_folder if info.authenticated else None
    roster = Roster(grid, None if folder is None else Members(folder).name_of_node)
    wait_for_organizations(roster, organizations_needed(plan), plan.federation.round_timeout, observer)
    check_ranks(roster, plan)
    lines = directory.round_log.drop_after(done)
    if not lines:
        evaluation = evaluate(state.released) if evaluate else Evaluation()
        lines.append(RoundLine(0, {}, metrics=evaluation.metrics))
        write_evaluation(directory, 0, evaluation)
        directory.round_log.append(lines[-1])
        observer.finished(lines[-1])
    strategy = LoraAveraging(directory, roster, state)
    stated: set[str] = set()
    for number in range(done + 1, plan.training.rounds + 1):
        if is_finished(plan, lines):
            break
        line = _run_round(number, grid, directory, strategy, observer)
        is_due = evaluate is not None and plan.is_evaluated_after(number)
        evaluation = evaluate(strategy.state.released) if evaluate and is_due else Evaluation()
        lines.append(replace(line, metrics=evaluation.metrics))
        if result_line(plan, lines) is lines[-1]:
            write_evaluation(directory, number, evaluation)
        directory.round_log.append(lines[-1])
        # Written last: a resumed run continues after the latest checkpoint.
        directory.checkpoints.write(number, strategy.state)
        observer.finished(lines[-1])
        if info.private and not stated.issuperset(strategy.outcome.answered):
            # The whole run is charged by now: its cost is known even if the run never completes.
            stated |= collect_statements(grid, directory, roster)
    if info.private:
        collect_statements(grid, directory, roster)
    return directory.checkpoint(result_line(plan, lines).round)


def _run_round(
    number: int,
    grid: Grid,
    directory: RunDirectory,
    strategy: LoraAveraging,
    observer: Observer,
) -> RoundLine:
    """Run one round, and return its line for `rounds.jsonl`, without metrics."""
    federation, roster = directory.plan.federation, strategy.roster
    # A restarting relay is away for seconds. A round with too few organizations would end the run.
    needed = organizations_needed(directory.plan)
    wait_for_organizations(roster, needed, federation.round_timeout, observer, settle=0.0)
    start = time.monotonic()
    asked = list(roster.nodes)
    observer.started(asked, number - 1)
    arrays = codec.adapter_record(strategy.state.adapter)
    requests = dict(zip(asked, strategy.configure_train(number, arrays, ConfigRecord(), grid), strict=True))
    bytes_up: dict[str, int] = {}

    def replies() -> Iterator[Message]:
        """Yield one answer at a time; none is kept in memory."""
        for name, reply in exchange(grid, roster, requests, federation.round_timeout, enough=needed):
            bytes_up[name] = codec.payload_size(reply.content)
            observer.answered(name)
            yield reply

    aggregated, _ = strategy.aggregate_train(number, replies())
    seconds = time.monotonic() - start
    outcome = strategy.outcome
    outcome.refused |= {name: f"no answer within {seconds:.0f} seconds" for name in asked if name not in bytes_up}
    if aggregated is None:
        raise SottoError(_too_few(number, outcome))
    return RoundLine(
        round=number,
        organizations={"asked": asked, "answered": outcome.answered, "refused": outcome.refused},
        bytes_up=sum(bytes_up.values()),
        bytes_down=sum(codec.payload_size(request.content) for request in requests.values()),
        seconds=round(seconds, 3),
    )


def _too_few(number: int, outcome: Outcome) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(outcome.refused.items()))
    return f"round {number}: {len(outcome.answered)} organizations answered, the plan needs {outcome.needed}" + (
        f" ({reasons})" if reasons else ""
    )

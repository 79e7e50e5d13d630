"""The progress of a run on a terminal: rounds, time left, ε, and the last public metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from common.plan.plan import Plan
from common.system.logs import is_json, report
from server.run_directory.round_log import RoundLine
from server.tracking.observer import Observer


def run_progress(plan: Plan, private: bool, console: Console) -> ProgressBar | ProgressLines:
    """Who shows the progress of a run: a bar for people, lines where the log is for machines.

    Args:
        plan: of the run.
        private: whether the run has an ε to show.
        console: where a bar is drawn.
    """
    return ProgressLines(plan) if is_json() else ProgressBar(plan, private, console)


class ProgressLines(Observer):
    """A line of the log for whatever happens; use it as a context.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._rounds = plan.training.rounds
        self._round = self._complete = 0

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left open."""

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """Say who is there and how many are needed."""
        names = list(connected)
        report("waiting for organizations", {"connected": names, "needed": needed})

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """A round begins."""
        self._round = completed + 1
        names = list(organizations)
        report("a round begins", {"round": self._round, "rounds": self._rounds, "organizations": names})

    def answered(self, organization: str) -> None:
        """Say who answered, while the round lasts; its own line names all."""
        if self._round == self._complete:
            return
        report("an organization answered", {"round": self._round, "organization": organization})

    def finished(self, line: RoundLine) -> None:
        """The round's line of `rounds.jsonl`."""
        self._complete = line.round
        report("a round is complete", dataclasses.asdict(line))


class ProgressBar(Observer):
    """A bar that moves with every answer; use it as a context.

    Args:
        plan: of the run.
        private: whether the run has an ε to show.
        console: where to draw.
    """

    def __init__(self, plan: Plan, private: bool, console: Console) -> None:
        cost = f"ε ≤ {plan.privacy.epsilon:g}, δ = {plan.privacy.delta:g}" if private else "[red]no privacy[/red]"
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("rounds"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn(cost),
            TextColumn("[cyan]{task.fields[metric]}"),
            TextColumn("{task.fields[missing]}"),
            console=console,
        )
        self._task = self._progress.add_task(
            "rounds", total=plan.training.rounds, metric="", missing="", start=False
        )
        self._metric, _ = plan.task.headline
        self._shown = ""
        self._share = 1.0
        self._missing: list[str] = []
        self._completed = 0
        self._begun = False

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error before anything happened leaves no empty bar above its line.
        self._progress.live.transient = kind is not None and not self._begun
        self._progress.stop()

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """Say who is there and how many are missing."""
        self._begun = True
        names = list(connected)
        there = f" ({', '.join(names)})" if names else ""
        self._progress.console.print(
            f"waiting for organizations: {len(names)} of {needed} are connected{there}", highlight=False
        )

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """Begin a round."""
        self._begun = True
        self._missing = list(organizations)
        self._share = 1 / max(1, len(self._missing))
        self._completed = completed
        self._progress.start_task(self._task)
        self._progress.update(self._task, completed=completed, missing=self._waits_for())

    def answered(self, organization: str) -> None:
        """An answer is a share of a round."""
        self._missing = [name for name in self._missing if name != organization]
        self._progress.update(self._task, advance=self._share, missing=self._waits_for())

    def late(self, organizations: Iterable[str], seconds: float) -> None:
        """Say for whom the round waits, also where no bar can be drawn."""
        names = ", ".join(organizations)
        text = f"round {self._completed + 1}: waiting for {names} since {seconds:.0f} s"
        self._progress.console.print(text, highlight=False, markup=False)

    def _waits_for(self) -> str:
        return f"waiting for {', '.join(self._missing)}" if self._missing else ""

    def finished(self, line: RoundLine) -> None:
        """Show the round's metric."""
        if self._metric in line.metrics:
            self._shown = f"{self._metric} {line.metrics[self._metric]:.4g}"
        self._progress.update(self._task, completed=max(line.round, self._completed), metric=self._shown)

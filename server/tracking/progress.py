"""The progress of a run on a terminal: rounds, time left, ε, and the last public metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from common.plan.plan import Plan
from common.run.round_line import RoundLine
from common.system.logs import is_json, report
from server.tracking.observer import Observer


def run_progress(plan: Plan, private: bool, console: Console) -> ProgressBar | ProgressLines:
    """Return the observer that displays the progress of a run: a bar, or log lines if the log format is JSON.

    Args:
        plan: of the run.
        private: whether the run has an ε to show.
        console: for the bar.
    """
    return ProgressLines(plan) if is_json() else ProgressBar(plan, private, console)


class ProgressLines(Observer):
    """Writes a log line for every event; a context manager.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._rounds = plan.training.rounds
        self._round = self._complete = 0

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is nothing to close."""

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """Report which organizations are connected and how many are needed."""
        names = list(connected)
        report("waiting for organizations", {"connected": names, "needed": needed})

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """Report the start of a round."""
        self._round = completed + 1
        names = list(organizations)
        report("a round begins", {"round": self._round, "rounds": self._rounds, "organizations": names})

    def answered(self, organization: str) -> None:
        """Report an answer, unless the round is complete already: its line names all answers."""
        if self._round == self._complete:
            return
        report("an organization answered", {"round": self._round, "organization": organization})

    def finished(self, line: RoundLine) -> None:
        """Report the round's line of `rounds.jsonl`."""
        self._complete = line.round
        report("a round is complete", dataclasses.asdict(line))


class ProgressBar(Observer):
    """A progress bar that advances with every answer; a context manager.

    Args:
        plan: of the run.
        private: whether the run has an ε to show.
        console: to draw on.
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
        self._active = False

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error before the first event, no empty bar remains on the screen.
        self._progress.live.transient = kind is not None and not self._active
        self._progress.stop()

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """Print which organizations are connected and how many are needed."""
        self._active = True
        names = list(connected)
        names_text = f" ({', '.join(names)})" if names else ""
        self._progress.console.print(
            f"waiting for organizations: {len(names)} of {needed} are connected{names_text}", highlight=False
        )

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """Start a round on the bar."""
        self._active = True
        self._missing = list(organizations)
        self._share = 1 / max(1, len(self._missing))
        self._completed = completed
        self._progress.start_task(self._task)
        self._progress.update(self._task, completed=completed, missing=self._missing_text())

    def answered(self, organization: str) -> None:
        """Advance the bar by one organization's share of a round."""
        self._missing = [name for name in self._missing if name != organization]
        self._progress.update(self._task, advance=self._share, missing=self._missing_text())

    def late(self, organizations: Iterable[str], seconds: float) -> None:
        """Print the organizations that the round waits for, even if no bar can be drawn."""
        names = ", ".join(organizations)
        text = f"round {self._completed + 1}: waiting for {names} since {seconds:.0f} s"
        self._progress.console.print(text, highlight=False, markup=False)

    def _missing_text(self) -> str:
        return f"waiting for {', '.join(self._missing)}" if self._missing else ""

    def finished(self, line: RoundLine) -> None:
        """Display the round's metric."""
        if self._metric in line.metrics:
            self._shown = f"{self._metric} {line.metrics[self._metric]:.4g}"
        self._progress.update(self._task, completed=max(line.round, self._completed), metric=self._shown)

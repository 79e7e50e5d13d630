"""Who is told of the progress of a run."""

from __future__ import annotations

from collections.abc import Iterable

from server.run_directory.round_log import RoundLine


class Observer:
    """Told of the progress of a run. Does nothing by itself."""

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """So many organizations are connected; the plan needs more."""

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """A round begins with these organizations; so many rounds are complete."""

    def answered(self, organization: str) -> None:
        """An answer of the current round arrived."""

    def late(self, organizations: Iterable[str], seconds: float) -> None:
        """For so long nothing was heard of these organizations, which the current round waits for."""

    def finished(self, line: RoundLine) -> None:
        """A round is complete and stored."""


class Observers(Observer):
    """Several observers as one.

    Args:
        observers: each is told everything, in this order.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """Tell all."""
        names = list(connected)
        for observer in self._observers:
            observer.waiting(names, needed)

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """Tell all."""
        names = list(organizations)
        for observer in self._observers:
            observer.started(names, completed)

    def answered(self, organization: str) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.answered(organization)

    def late(self, organizations: Iterable[str], seconds: float) -> None:
        """Tell all."""
        names = list(organizations)
        for observer in self._observers:
            observer.late(names, seconds)

    def finished(self, line: RoundLine) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.finished(line)

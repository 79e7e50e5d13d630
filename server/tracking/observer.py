"""Observers of the progress of a run."""

from __future__ import annotations

from collections.abc import Iterable

from common.run.round_line import RoundLine


class Observer:
    """Receives the progress of a run. Every method does nothing by default."""

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """Too few organizations are connected.

        Args:
            connected: their names.
            needed: how many the run needs.
        """

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """A round begins.

        Args:
            organizations: that are asked.
            completed: number of completed rounds.
        """

    def answered(self, organization: str) -> None:
        """An organization answered in the current round."""

    def late(self, organizations: Iterable[str], seconds: float) -> None:
        """Organizations of the current round have not answered for some time.

        Args:
            organizations: that have not answered.
            seconds: since the last answer.
        """

    def finished(self, line: RoundLine) -> None:
        """A round is complete; its line is written."""


class Observers(Observer):
    """Forwards everything to several observers.

    Args:
        observers: notified in this order.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        """Forward to all observers."""
        names = list(connected)
        for observer in self._observers:
            observer.waiting(names, needed)

    def started(self, organizations: Iterable[str], completed: int) -> None:
        """Forward to all observers."""
        names = list(organizations)
        for observer in self._observers:
            observer.started(names, completed)

    def answered(self, organization: str) -> None:
        """Forward to all observers."""
        for observer in self._observers:
            observer.answered(organization)

    def late(self, organizations: Iterable[str], seconds: float) -> None:
        """Forward to all observers."""
        names = list(organizations)
        for observer in self._observers:
            observer.late(names, seconds)

    def finished(self, line: RoundLine) -> None:
        """Forward to all observers."""
        for observer in self._observers:
            observer.finished(line)

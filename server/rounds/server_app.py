"""The Flower ServerApp: runs the rounds of the run directory that the run configuration names.

It needs no torch unless the plan names public data to evaluate on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import http_grid

from common.errors import SottoError
from common.flower.patches import bound_arrays, pull_sooner
from common.system.lock import exclusive
from server.rounds.background_grid import BackgroundGrid
from server.rounds.rounds import Evaluator, run_rounds
from server.run_directory.round_log import RoundLine
from server.run_directory.run_directory import RunDirectory
from server.run_directory.status import Status
from server.tracking.observer import Observer

# Whoever asks whether the lock is held takes it for a moment.
_LOCK_SECONDS = 5.0

# Flower's build reads this line as text: it must not carry an annotation.
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; what they leave, and how they ended, is in the run directory."""
    pull_sooner(http_grid, "pull_objects")
    bound_arrays()
    directory = RunDirectory.open(Path(str(context.run_config["run-directory"])))
    # Held as long as this process lives, so that others see at once when it is gone, however it went.
    with exclusive(directory.path / "run", patience=_LOCK_SECONDS):
        teller = _Teller(directory, str(context.run_id))
        try:
            run_rounds(BackgroundGrid(grid), directory, _evaluation(directory), teller)
        except SottoError as error:
            teller.tell(Status("failed", reason=str(error)))
            raise
        except Exception as error:  # whoever watches is told before the process ends
            teller.tell(Status("failed", reason=f"{type(error).__name__}: {error}"))
            raise
        teller.tell(Status("complete"))


def _evaluation(directory: RunDirectory) -> Evaluator | None:
    if directory.plan.evaluation.data is None:
        return None
    from common.model.model import LoraModel
    from server.results.evaluate import PublicEvaluation

    return PublicEvaluation(directory.plan, LoraModel(directory.info.base, directory.plan))


class _Teller(Observer):
    """Keeps `status.json` up to date."""

    def __init__(self, directory: RunDirectory, flower_run: str) -> None:
        self._directory = directory
        self._flower_run = flower_run
        self.tell(Status("waiting"))

    def tell(self, status: Status) -> None:
        """Say how far the run is."""
        self._status = replace(status, flower_run=self._flower_run)
        self._directory.status.write(self._status)

    def waiting(self, connected: Iterable[str], needed: int) -> None:  # noqa: ARG002 - the plan says it
        self.tell(Status("waiting", organizations=list(connected)))

    def started(self, organizations: Iterable[str], completed: int) -> None:
        self.tell(Status("running", completed + 1, list(organizations)))

    def answered(self, organization: str) -> None:
        now = self._status
        self.tell(Status("running", now.round, now.organizations, [*now.answered, organization]))

    def finished(self, line: RoundLine) -> None:
        """Nothing: the line stands in `rounds.jsonl`."""

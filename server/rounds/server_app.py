"""The Flower ServerApp: runs the rounds of the run directory in the run configuration.

PyTorch is needed only if the plan has public data to evaluate on.
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
from common.run.round_line import RoundLine
from common.system.lock import exclusive
from server.rounds.background_grid import BackgroundGrid
from server.rounds.rounds import Evaluator, run_rounds
from server.run_directory.run_directory import RunDirectory
from server.run_directory.status import Status
from server.tracking.observer import Observer

# Other processes acquire the lock briefly to check whether it is held.
_LOCK_SECONDS = 5.0

# Flower's build parses this line as text: it must not have an annotation.
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds. Results and status are written to the run directory."""
    pull_sooner(http_grid, "pull_objects")
    bound_arrays()
    directory = RunDirectory.open(Path(str(context.run_config["run-directory"])))
    # Held as long as this process lives: others notice its end immediately, whatever the cause.
    with exclusive(directory.path / "run", patience=_LOCK_SECONDS):
        status = _StatusWriter(directory, str(context.run_id))
        try:
            run_rounds(BackgroundGrid(grid), directory, _evaluator(directory), status)
        except SottoError as error:
            status.write(Status("failed", reason=str(error)))
            raise
        except Exception as error:  # reported to followers before the process ends
            status.write(Status("failed", reason=f"{type(error).__name__}: {error}"))
            raise
        status.write(Status("complete"))


def _evaluator(directory: RunDirectory) -> Evaluator | None:
    if directory.plan.evaluation.data is None:
        return None
    from common.model.model import LoraModel
    from common.results.evaluate import PublicEvaluation

    return PublicEvaluation(directory.plan, LoraModel(directory.info.base, directory.plan))


class _StatusWriter(Observer):
    """Writes `status.json`."""

    def __init__(self, directory: RunDirectory, flower_run: str) -> None:
        self._directory = directory
        self._flower_run = flower_run
        self.write(Status("waiting"))

    def write(self, status: Status) -> None:
        """Write a status."""
        self._status = replace(status, flower_run=self._flower_run)
        self._directory.status.write(self._status)

    def waiting(self, connected: Iterable[str], needed: int) -> None:  # noqa: ARG002 - known from the plan
        self.write(Status("waiting", organizations=list(connected)))

    def started(self, organizations: Iterable[str], completed: int) -> None:
        self.write(Status("running", completed + 1, list(organizations)))

    def answered(self, organization: str) -> None:
        now = self._status
        self.write(Status("running", now.round, now.organizations, [*now.answered, organization]))

    def finished(self, line: RoundLine) -> None:
        """Do nothing: the line is in `rounds.jsonl`."""

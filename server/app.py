"""The Flower ServerApp: runs the rounds of the run directory that the run configuration names."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.model import LoraModel
from server.evaluate import PublicEvaluation
from server.rounds import Evaluator, Observer, run_rounds
from server.run_directory import RunDirectory

# Flower's build reads this line as text: it must not carry an annotation.
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; what they leave is in the run directory."""
    directory = RunDirectory.open(Path(str(context.run_config["run-directory"])))
    evaluation: Evaluator | None = None
    if directory.plan.evaluation.data is not None:
        evaluation = PublicEvaluation(directory.plan, LoraModel(directory.info.base, directory.plan))
    run_rounds(grid, directory, evaluation, Observer())

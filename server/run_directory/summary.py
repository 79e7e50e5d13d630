"""The summary of a run, read from its directory."""

from __future__ import annotations

from common.run.summary import RunSummary
from server.run_directory.evaluation import read_evaluation
from server.run_directory.run_directory import RunDirectory


def run_summary(directory: RunDirectory) -> RunSummary:
    """Read what reports and model cards need to know of a run.

    Raises:
        InputError: a file of the run cannot be read.
    """
    info = directory.info
    return RunSummary(
        run=info.run,
        plan=directory.plan,
        private=info.private,
        fingerprint=info.fingerprint,
        shapes=info.shapes,
        rounds=directory.rounds(),
        evaluation=read_evaluation(directory),
    )

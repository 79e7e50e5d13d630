"""`evaluation.json`: quality by class of the run's result. Metrics of every round are in `rounds.jsonl`."""

from __future__ import annotations

from dataclasses import asdict

from common.errors import InputError
from common.run.evaluation import Evaluation, StoredEvaluation
from server.run_directory.files import read_as
from server.run_directory.run_directory import RunDirectory

_FILE = "evaluation.json"
# Twenty classes with the longest names take a few thousand characters.
_MOST_BYTES = 2**18


def write_evaluation(directory: RunDirectory, number: int, evaluation: Evaluation) -> None:
    """Replace the stored evaluation, if the task is a classification task."""
    if evaluation.classes is not None:
        directory.write_json(_FILE, asdict(StoredEvaluation(number, evaluation.classes)))


def read_evaluation(directory: RunDirectory) -> StoredEvaluation | None:
    """Read the stored evaluation; None if there is none.

    Raises:
        InputError: the file is malformed, or its classes are not those of the plan.
    """
    path = directory.path / _FILE
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path}: should have at most {_MOST_BYTES} bytes")
    stored = read_as(StoredEvaluation, data, path)
    labels = directory.plan.task.labels or []
    scores = [score.name for score in stored.classes.scores]
    if not labels or stored.classes.names - set(labels) or (scores and scores != labels):
        raise InputError(f"{path}: its classes are not those of the plan's task.labels")
    return stored

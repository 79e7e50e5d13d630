"""What public data says of an adapter, and where a run keeps it: `evaluation.json`.

Only public data is ever looked at. The numbers of every evaluation stand in `rounds.jsonl`; the file holds what is
no single number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated

from pydantic import ConfigDict, Field

from common.errors import InputError
from common.tasks.class_report import ClassReport
from server.run_directory.files import read_as
from server.run_directory.run_directory import RunDirectory

_FILE = "evaluation.json"
# Twenty classes with the longest names take some thousand characters; more than this was not written by a run.
_MOST_BYTES = 2**18


@dataclass(frozen=True)
class Evaluation:
    """What public data says of a model.

    Attributes:
        metrics: names and numbers.
        classes: how well each class was told, for a task that tells classes.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    classes: ClassReport | None = None


@dataclass(frozen=True)
class StoredEvaluation:
    """What `evaluation.json` holds.

    Attributes:
        round: after which the model was evaluated.
        classes: how well it told each class of the plan.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    round: Annotated[int, Field(ge=0)]
    classes: ClassReport


def write_evaluation(directory: RunDirectory, number: int, evaluation: Evaluation) -> None:
    """Keep what was found after a round in place of what was found before it, if the task tells classes."""
    if evaluation.classes is not None:
        directory.write_json(_FILE, asdict(StoredEvaluation(number, evaluation.classes)))


def read_evaluation(directory: RunDirectory) -> StoredEvaluation | None:
    """What was kept last; None if nothing was.

    Raises:
        InputError: the file holds anything else, or names classes that the plan does not name.
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
        raise InputError(f"{path}: has more than {_MOST_BYTES} bytes, which no run writes")
    stored = read_as(StoredEvaluation, data, path)
    labels = directory.plan.task.labels or []
    scores = [score.name for score in stored.classes.scores]
    if not labels or stored.classes.names - set(labels) or (scores and scores != labels):
        raise InputError(f"{path}: its classes are not those of the plan's task.labels")
    return stored

"""The tasks that a base model can be fine-tuned for: one module per task, one interface.

A task turns a record into `Example`s, and a batch of examples into one loss per example. A loss depends on
its own example alone: that is what makes a clipped gradient a bound on one record's influence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import InputError

if TYPE_CHECKING:
    import torch

    from common.plan.task import TaskSection

# A label that contributes no loss.
IGNORED = -100
# A longer text is not tokenized: some tokenizers take minutes for one, or give up.
MOST_CHARACTERS = 2**20


class UnusableError(ValueError):
    """A record cannot be used. The text is the reason, without any content of the record."""


@dataclass(frozen=True)
class Example:
    """An encoded record, or one window of it.

    Attributes:
        input_ids: token ids, at least one.
        labels: the targets of the loss, which depend on the task: the token of each position (`IGNORED` where
            there is no loss), a class, the ends of an answer, or the tokens to generate.
        second: the position where the second of two texts starts; 0 if there is one text.
        vector: the output of a frozen base model in place of the tokens: float32 as bytes.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    second: int = 0
    vector: bytes = b""

    def __len__(self) -> int:
        return max(len(self.input_ids), len(self.labels))


def padded_length(length: int) -> int:
    """The next multiple of 16 above a length in tokens.

    The padded length of an example depends on its own length only, and at least one position is padding. So the
    kernels that run, and the rounding of an example's gradient, do not depend on the rest of the batch.

    >>> [padded_length(tokens) for tokens in (1, 16, 17, 100)]
    [16, 32, 32, 112]
    """
    return 16 * (length // 16 + 1)


class Task(Protocol):
    """The interface of every task."""

    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """Encode a record as one example or, if it is long, as its windows. Depends on no other record.

        Raises:
            UnusableError: the record cannot be used.
        """

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """One loss per example, shape (examples,), each a function of that example alone.

        Inputs are padded to `length` tokens, see `padded_length`.
        """

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Synthetic examples of different lengths, the first the longest, to test a model; no record is read."""

    def predict(self, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]) -> list[Any]:
        """A prediction for each record, with the reference; None for a record that cannot be used."""

    def metrics(self, predictions: Sequence[Any]) -> dict[str, float]:
        """Metrics by name, over one or more predictions without None."""

    def score(self, predictions: Sequence[Any]) -> float:
        """The main metric alone. Fast: it can be called a thousand times."""


def predictions_on(task: Task, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Predictions for the records that can be used."""
    return [prediction for prediction in task.predict(model, records) if prediction is not None]


def usable(task: Task, records: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[Example]]:
    """The examples of the records that can be used, and for each the index of its record."""
    places: list[int] = []
    examples: list[Example] = []
    for place, record in enumerate(records):
        try:
            encoded = task.encode(record)
        except UnusableError:
            continue
        places += [place] * len(encoded)
        examples += encoded
    return places, examples


def check_some_usable(task: Task, section: TaskSection, records: Sequence[Mapping[str, Any]], source: str) -> None:
    """Raise if no record can be used. For public records, and for an organization's own terminal.

    Raises:
        InputError: no record can be used; with the reason for the first.
    """
    reason = "there are no records"
    for number, record in enumerate(records):
        try:
            task.encode(record)
        except UnusableError as error:
            reason = str(error) if number == 0 else reason
        else:
            return
    needed = ", ".join(section.fields)
    raise InputError(f"{source}: none of {len(records)} records fits the task, which needs {needed}: {reason}")


def make_task(section: TaskSection, tokenizer: Any) -> Task:
    """Create the task of a plan.

    Raises:
        InputError: the tokenizer does not support the task.
    """
    from common.tasks.causal_lm import CausalLM
    from common.tasks.chat import Chat
    from common.tasks.classification import Classification
    from common.tasks.question_answering import QuestionAnswering
    from common.tasks.seq2seq import Seq2Seq

    kinds: dict[str, Callable[[TaskSection, Any], Task]] = {
        "causal-lm": CausalLM,
        "chat": Chat,
        "classification": Classification,
        "question-answering": QuestionAnswering,
        "seq2seq": Seq2Seq,
    }
    return kinds[section.kind](section, tokenizer)

"""What a base model can be fine-tuned for. One file a task, one interface.

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

# A label that no loss is taken on.
IGNORED = -100


class UnusableError(ValueError):
    """A record contributes nothing. The text says why, without a word of the record."""


@dataclass(frozen=True)
class Example:
    """An encoded record, or one window of it.

    Attributes:
        input_ids: token ids, at least one.
        labels: what the loss is taken against, as the task reads it: what each position should have been
            (`IGNORED` where no loss is taken), a class, the ends of an answer, the tokens to write.
        second: where the second of two texts begins; 0 if there is one text.
        vector: in place of the tokens, what a base model that is not trained makes of them: float32 as bytes.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    second: int = 0
    vector: bytes = b""

    def __len__(self) -> int:
        return max(len(self.input_ids), len(self.labels))


def padded_length(length: int) -> int:
    """The next multiple of 16 above a length in tokens.

    What an example is padded to depends on its own length only, and at least one position is padding: the
    kernels that run, and so the rounding of an example's gradient, do not depend on its companions.

    >>> [padded_length(tokens) for tokens in (1, 16, 17, 100)]
    [16, 32, 32, 112]
    """
    return 16 * (length // 16 + 1)


class Task(Protocol):
    """The interface of every task."""

    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """The examples of a record: one, or the windows of a long one. Looks at no other record.

        Raises:
            UnusableError: it can contribute nothing.
        """

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """One loss per example, shape (examples,), each a function of that example alone.

        Inputs are padded to `length` tokens, see `padded_length`.
        """

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Made-up examples of different lengths, the first the longest, to try a model with; no record is read."""

    def predict(self, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What a model makes of each record, beside what is right; None for a record that cannot be used."""

    def metrics(self, predictions: Sequence[Any]) -> dict[str, float]:
        """Metric names and numbers over some of what `predict` gave, None left out; at least one."""

    def score(self, predictions: Sequence[Any]) -> float:
        """The section's headline metric alone, which takes no time: it may be asked for a thousand times."""


def predictions_on(task: Task, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What a model makes of records; those that cannot be used are left out."""
    return [made for made in task.predict(model, records) if made is not None]


def usable(task: Task, records: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[Example]]:
    """The examples of the records that can be used, and the place of the record of each."""
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
    """Refuse records that all contribute nothing. For public records, and for an organization's own terminal.

    Raises:
        InputError: none of them can be used; the reason of the first one.
    """
    reason = "there is none"
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
    """The task that a plan names.

    Raises:
        InputError: the tokenizer cannot serve it.
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

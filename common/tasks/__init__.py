"""What a base model can be fine-tuned for. One file a task, one interface.

A task turns a record into an `Example`, and a batch of examples into one loss per example. A loss depends on
its own example alone: that is what makes a clipped gradient a bound on one record's influence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import InputError

if TYPE_CHECKING:
    import torch

    from common.plan import Task as TaskSection


@dataclass(frozen=True)
class Example:
    """An encoded record.

    Attributes:
        input_ids: token ids, at least two.
        labels: what each position should have been, aligned with `input_ids`; -100 where no loss is taken.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.input_ids)


def padded_length(length: int) -> int:
    """The next multiple of 16 above a length in tokens.

    What an example is padded to depends on its own length only, and at least one position is padding: the
    kernels that run, and so the rounding of an example's gradient, do not depend on its companions.
    """
    return 16 * (length // 16 + 1)


class Task(Protocol):
    """The interface of every task."""

    def encode(self, record: Mapping[str, Any]) -> Example | None:
        """The record as an example; None if it can contribute nothing. Looks at no other record."""

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """One loss per example, shape (examples,), each a function of that example alone.

        Inputs are padded to `length` tokens, see `padded_length`.
        """

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Made-up examples of different lengths, the first the longest, to try a model with; no record is read."""

    def evaluate(self, model: torch.nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Metric names and numbers over all examples."""


def make_task(section: TaskSection, tokenizer: Any) -> Task:
    """The task that a plan names.

    Raises:
        InputError: the tokenizer cannot serve it.
    """
    from common.tasks.causal_lm import CausalLM

    if tokenizer.eos_token_id is None:
        raise InputError(f"task.kind = {section.kind!r}: the base model's tokenizer has no end-of-text token")
    return CausalLM(section.template, section.max_length, tokenizer)

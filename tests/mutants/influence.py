"""Bugs by which one unit moves a release by more than it may."""

from __future__ import annotations

from typing import Any

import torch

import client.vault.records.units
import client.vault.training.dp_sgd
import client.vault.training.per_example
from client.vault.training.features import FrozenUnits
from common.tasks.causal_lm import CausalLM
from common.tasks.chat import Chat
from common.tasks.classification import Classification
from common.tasks.question_answering import QuestionAnswering
from common.tasks.seq2seq import Seq2Seq
from tests.mutants.mutant import replace_everywhere


def _batch_loss_of(kind: Any) -> None:
    original = kind.losses

    def losses(self: Any, model: Any, examples: Any, length: int) -> torch.Tensor:
        each: torch.Tensor = original(self, model, examples, length)
        return each.mean().expand(len(each))

    kind.losses = losses


def batch_loss() -> None:
    """The model's own loss over the whole batch in place of one loss per example."""
    _batch_loss_of(CausalLM)


def batch_loss_of_chats() -> None:
    """The same for dialogues."""
    _batch_loss_of(Chat)


def batch_loss_of_classes() -> None:
    """The same for classification."""
    _batch_loss_of(Classification)


def batch_loss_of_answers() -> None:
    """The same for question answering."""
    _batch_loss_of(QuestionAnswering)


def batch_loss_of_texts() -> None:
    """The same for texts from texts."""
    _batch_loss_of(Seq2Seq)


def windows_by_themselves() -> None:
    """Each window of a long record is a unit, clipped by itself."""
    original = client.vault.records.units.encode

    def encode(*values: Any) -> Any:
        made = original(*values)
        units = tuple((example,) for unit in made.units for example in unit)
        return type(made)(units, made.unusable)

    replace_everywhere(original, encode)


def vectors_of_another_adapter() -> None:
    """What was kept of the records is used although the layers that made it have changed."""
    original = FrozenUnits.under
    kept: list[Any] = []

    def under(self: Any, *values: Any) -> Any:
        kept.append(original(self, *values))
        return kept[0]

    FrozenUnits.under = under  # type: ignore[method-assign]


def clip_per_layer() -> None:
    """Each tensor clipped to C by itself: together they reach C times the root of their number."""
    private = client.vault.training.dp_sgd

    def clipped_sum(gradients: Any, task: Any, sample: Any, clipping_norm: float, max_tokens: int, *_: Any) -> Any:
        numbers = [gradients.parameters[name].numel() for name in sorted(gradients.parameters)]
        total = torch.zeros(sum(numbers), dtype=torch.int64)
        units = [unit for unit in sample if unit]
        if units:
            parts = private.mean_gradients(gradients, task, units, max_tokens).split(numbers, dim=1)
            total = torch.cat([private.clipped_integers(part.contiguous(), clipping_norm) for part in parts])
        return total

    replace_everywhere(private.clipped_sum, clipped_sum)


def clip_per_window() -> None:
    """Each record of a user, or each window of a record, clipped by itself, and then the sum of them."""
    original = client.vault.training.dp_sgd.clipped_sum

    def clipped_sum(gradients: Any, task: Any, sample: Any, *rest: Any) -> Any:
        return original(gradients, task, [(example,) for unit in sample for example in unit], *rest)

    replace_everywhere(original, clipped_sum)


def users_records_as_examples() -> None:
    """A plan for users trained as if each record were a unit of its own."""
    original = client.vault.records.units.encode

    def encode(records: Any, task: Any, user_field: Any = None, *others: Any) -> Any:
        return original(records, task, None, *others)

    replace_everywhere(original, encode)


def nan_passes() -> None:
    """A gradient that is not finite is clipped like any other."""

    def isfinite(tensor: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(tensor, dtype=torch.bool)

    torch.Tensor.isfinite = isfinite  # type: ignore[method-assign, assignment]

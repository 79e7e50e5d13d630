"""Texts of records, and batches of tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from common.errors import InputError
from common.plan.task import TaskSection
from common.tasks import MOST_CHARACTERS, Example, Task, UnusableError, usable

P = TypeVar("P")


def filled(template: str, record: Mapping[str, Any]) -> str:
    """Fill a template with the fields of a record.

    Raises:
        UnusableError: a field is missing or is not a text or number, or the result is blank.
    """
    fields = {key: value for key, value in record.items() if isinstance(value, str | int | float)}
    try:
        text = template.format_map(fields)
    except KeyError as error:
        raise UnusableError(f"its {error.args[0]!r} is missing, or is not a text or number") from None
    except ValueError:
        raise UnusableError("a number has too many digits") from None
    if not text.strip():
        raise UnusableError("its text is empty")
    return clean(text)


def clean(text: str) -> str:
    """Replace lone surrogates, which pass JSON but are not valid text: a tokenizer may fail on them.

    Raises:
        UnusableError: the text has more than `MOST_CHARACTERS`.
    """
    if len(text) > MOST_CHARACTERS:
        raise UnusableError(f"its text has more than {MOST_CHARACTERS} characters")
    return text.encode("utf-8", "replace").decode("utf-8")


def check_ends_texts(section: TaskSection, tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot end a text.

    Raises:
        InputError: it has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise InputError(f"task.kind = {section.kind!r}: the base model's tokenizer has no end-of-text token")


def padded(rows: Sequence[Sequence[int]], length: int, filler: int) -> torch.Tensor:
    """Rows of numbers as a tensor (rows, length), padded at the end."""
    tensor = torch.full((len(rows), length), filler)
    for place, row in enumerate(rows):
        tensor[place, : len(row)] = torch.tensor(row, dtype=torch.long)
    return tensor


def model_inputs(
    tokenizer: Any, examples: Sequence[Example], length: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Token ids and mask, shape (examples, length); token types if the tokenizer's models use them."""
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ones = [[1] * len(example.input_ids) for example in examples]
    inputs = {
        "input_ids": padded([example.input_ids for example in examples], length, padding),
        "attention_mask": padded(ones, length, 0),
    }
    if "token_type_ids" in tokenizer.model_input_names and any(example.second for example in examples):
        kinds = [[int(0 < example.second <= at) for at in range(len(example.input_ids))] for example in examples]
        inputs["token_type_ids"] = padded(kinds, length, 0)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def device_of(model: torch.nn.Module) -> torch.device:
    """The device of a model."""
    return next(model.parameters()).device


def batches(examples: Sequence[Example], rows: int = 32) -> list[list[int]]:
    """Group the indices of examples into batches of similar length."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def by_record(
    task: Task,
    records: Sequence[Mapping[str, Any]],
    answer: Callable[[Sequence[Example]], Sequence[P]],
    rows: int = 32,
) -> list[P | None]:
    """Predict for tasks with one example per record; in the order of the records, None for an unusable record.

    Args:
        task: encodes the records.
        records: some may be unusable.
        answer: the predictions for a batch of examples, one for each.
        rows: the most examples in a batch.
    """
    places, examples = usable(task, records)
    predictions: list[P | None] = [None] * len(records)
    with torch.inference_mode():
        for batch in batches(examples, rows):
            for index, prediction in zip(batch, answer([examples[index] for index in batch]), strict=True):
                predictions[places[index]] = prediction
    return predictions


class SyntheticData:
    """Random but reproducible token ids and classes, to test a model before any record is read.

    Args:
        tokenizer: defines the range of the token ids.
        max_length: the most tokens of an example.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._draw = random.Random(0)  # noqa: S311 - synthetic examples are not secret
        self._tokens = len(tokenizer)
        self._max_length = max_length

    def below(self, bound: int) -> int:
        """A number from 0 to `bound` − 1."""
        return self._draw.randrange(bound)

    def rows(self, count: int, longest: int) -> list[tuple[int, ...]]:
        """Rows of token ids of different lengths, the first the longest."""
        longest = min(self._max_length, longest)
        return [
            tuple(self.below(self._tokens) for _ in range(max(2, longest - 2 * index))) for index in range(count)
        ]

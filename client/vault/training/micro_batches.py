"""Which examples go through the model together, in shapes that do not tell how many or which were drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from client.vault.records.encoded import Unit
from client.vault.training.exact import MOST_ROWS
from common.tasks import Example, padded_length

# Float64 numbers that the gradients of a group of units may take: 256 MiB. Memory and speed only.
_GROUP_NUMBERS = 2**25
# So many parts of a group of units for each worker: fewer wait for each other, more fill up micro-batches.
_PARTS = 4
# Rows by padded length, where the tokens of a micro-batch would allow more: none.
NO_FEWER: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True)
class MicroBatch:
    """Examples that go through the model together, in a shape that does not tell how many or which.

    Matrix kernels round differently for different shapes. If shapes followed the draw, leaving out one record
    would change the gradients of the others: by 4e-6·C for 512 records in float32, but by 9 % of C in
    bfloat16, beyond the sensitivity that the accountant is told. So the length follows from each example
    alone, the rows from the length, and rows without an example are filled up.

    Attributes:
        examples: 1 to `rows` of them.
        length: tokens that each is padded to.
        rows: of the model's input.
    """

    examples: tuple[Example, ...]
    length: int
    rows: int


def micro_batches(
    units: Sequence[Unit], max_tokens: int, fewer: Mapping[int, int] = NO_FEWER
) -> Iterator[tuple[MicroBatch, list[int]]]:
    """All examples, those of like length together, each batch of `max_tokens` padded tokens, at least one row.

    Yields:
        A batch, and for each of its examples the place of its unit.
    """
    every = [(example, owner) for owner, unit in enumerate(units) for example in unit]
    every.sort(key=lambda item: len(item[0]))
    for length, group in itertools.groupby(every, key=lambda item: padded_length(len(item[0]))):
        rows = rows_at(length, max_tokens, fewer)
        items = list(group)
        for start in range(0, len(items), rows):
            examples, owners = zip(*items[start : start + rows], strict=True)
            yield MicroBatch(examples, length, rows), list(owners)


def groups(
    sample: Sequence[Unit], size: int, max_tokens: int, fewer: Mapping[int, int] = NO_FEWER
) -> Iterator[list[Unit]]:
    """The units that have examples: those of one example, then the others in groups.

    The gradient of a unit of one example is added as soon as it is there. The others' means are held in memory
    together: a user may have hundreds of examples, and there may be many users.

    Args:
        sample: the units.
        size: numbers in one gradient.
        max_tokens: padded tokens in a micro-batch. A group has a multiple of its rows.
        fewer: padded length → rows, where there are fewer.
    """
    single: list[Unit] = [unit for unit in sample if len(unit) == 1]
    if single:
        yield single
    several = sorted((unit for unit in sample if len(unit) > 1), key=lambda unit: max(map(len, unit)))
    start = 0
    while start < len(several):
        rows = rows_at(padded_length(max(map(len, several[start]))), max_tokens, fewer)
        count = rows * max(1, min(_GROUP_NUMBERS // (rows * size), MOST_ROWS // rows))
        yield several[start : start + count]
        start += count


def portions(
    sample: Sequence[Unit], size: int, max_tokens: int, fewer: Mapping[int, int], workers: int
) -> list[list[Unit]]:
    """The units that have examples in parts for so many workers, those that take longest first.

    Units of one example lie in parts of one micro-batch each: no more of them have to be filled up than in one
    process.

    Args:
        sample: the units.
        size: numbers in one gradient.
        max_tokens: padded tokens in a micro-batch.
        fewer: padded length → rows, where there are fewer.
        workers: how many.
    """
    parts: list[list[Unit]] = []
    for group in groups(sample, size, max_tokens, fewer):
        if len(group[0]) == 1:
            batches = micro_batches(group, max_tokens, fewer)
            parts += [[group[owner] for owner in owners] for _, owners in batches]
            continue
        count = max(1, -(-len(group) // (_PARTS * workers)))
        parts += [group[start : start + count] for start in range(0, len(group), count)]
    return parts[::-1]  # groups and micro-batches are in the order of their lengths


def rows_at(length: int, max_tokens: int, fewer: Mapping[int, int] = NO_FEWER) -> int:
    """The rows of a micro-batch of a padded length.

    >>> rows_at(96, 512), rows_at(96, 512, {96: 4}), rows_at(1024, 512)
    (5, 4, 1)
    """
    return min(fewer.get(length, max_tokens), max(1, max_tokens // length), MOST_ROWS)

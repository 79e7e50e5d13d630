"""Units as arrays of 32-bit integers: a tuple of Python's integers takes nine times the memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from common.tasks import Example

# What is added or removed as a whole: the examples of one record (one, or windows of it), or those of all
# records of one user. Empty if none can contribute.
Unit = tuple[Example, ...]


class EncodedUnits(Sequence[Unit]):
    """Encoded units, which become tuples of examples again one at a time.

    Args:
        units: their examples hold tokens, not vectors.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._tokens, self._labels = array("i"), array("i")
        # Where the tokens and the labels of each example end, and where its second text begins.
        self._token_ends, self._label_ends, self._seconds = array("q", [0]), array("q", [0]), array("q")
        self._unit_ends = array("q", [0])
        for unit in units:
            for example in unit:
                self._tokens.extend(example.input_ids)
                self._labels.extend(example.labels)
                self._token_ends.append(len(self._tokens))
                self._label_ends.append(len(self._labels))
                self._seconds.append(example.second)
            self._unit_ends.append(len(self._seconds))

    def __len__(self) -> int:
        return len(self._unit_ends) - 1

    @overload
    def __getitem__(self, place: int) -> Unit: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Unit, ...]: ...

    def __getitem__(self, place: int | slice) -> Unit | tuple[Unit, ...]:
        """One unit, or those of a slice as a tuple."""
        if isinstance(place, slice):
            return tuple(self[one] for one in range(*place.indices(len(self))))
        place = range(len(self))[place]
        return tuple(map(self._example, range(self._unit_ends[place], self._unit_ends[place + 1])))

    def _example(self, place: int) -> Example:
        ids = self._tokens[self._token_ends[place] : self._token_ends[place + 1]]
        labels = self._labels[self._label_ends[place] : self._label_ends[place + 1]]
        return Example(tuple(ids), tuple(labels), self._seconds[place])

"""Private records as units for training. Each is looked at by itself: nothing is learned from the corpus.

No deduplication, packing, vocabulary or label discovery: each of these would let one record change what
another contributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.records import Record
from common.tasks import Example, Task


@dataclass(frozen=True)
class EncodedRecords:
    """Units ready for training; stays inside the vault.

    Attributes:
        units: one entry a record, in the order of the file; None for a record that cannot contribute.
    """

    units: tuple[Example | None, ...]

    @property
    def unusable(self) -> int:
        """How many records contribute nothing. For the operator's own terminal only."""
        return sum(unit is None for unit in self.units)


def encode(records: Iterable[Record], task: Task) -> EncodedRecords:
    """Encode records one by one. A record that the task cannot read keeps its place and contributes zero."""
    return EncodedRecords(tuple(task.encode(record) for record in records))

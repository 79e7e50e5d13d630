"""Private records as units for training. Each is looked at by itself: nothing is learned from the corpus.

No deduplication, packing, vocabulary or label discovery: each of these would let one unit change what
another contributes. Grouping by user reads each record's own user and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from client.vault.policy.organization import Organization
from client.vault.records.anonymize import RecordTransform
from common.records import Placed, Record, placed_records
from common.tasks import Example, Task, UnusableError

_log = logging.getLogger(__name__)

# What is added or removed as a whole: the examples of one record (one, or windows of it), or those of all
# records of one user. Empty if none can contribute.
Unit = tuple[Example, ...]


@dataclass(frozen=True)
class EncodedRecords:
    """Units ready for training; stays inside the vault.

    Attributes:
        units: one entry a record in the order of the file, or one a user in the order of first appearance. A unit
            without an example contributes nothing; it keeps its place and is drawn like any other.
        unusable: how many records contribute nothing, because the task cannot read them or because they belong to
            no user. For the operator's own terminal only.
    """

    units: tuple[Unit, ...]
    unusable: int


def load_records(organization: Organization) -> list[Placed]:
    """The records of an organization under the names that plans use, each with where it stands.

    Raises:
        InputError: they cannot be read; for the organization's own terminal.
    """
    names = organization.data.fields or {}
    placed = placed_records(organization.path(organization.data.train))
    return [
        (place, {**record, **{name: record[own] for name, own in names.items() if own in record}})
        for place, record in placed
    ]


def encode(
    records: Iterable[Record],
    task: Task,
    user_field: str | None = None,
    transform: RecordTransform = lambda record: record,
) -> EncodedRecords:
    """Encode records one by one, and put those of a user together.

    Args:
        records: in the order of the file.
        task: makes an example of a record, or None.
        user_field: names a record's user; None if each record is a unit of its own.
        transform: what a record goes through before the task sees it. Users are told apart before.
    """
    every = list(records)
    groups = [[record] for record in every] if user_field is None else group_by_user(every, user_field)
    encoded = [[_encode(record, task, transform) for record in group] for group in groups]
    units = tuple(tuple(example for record in group for example in record) for group in encoded)
    return EncodedRecords(units, len(every) - sum(bool(record) for group in encoded for record in group))


def _encode(record: Record, task: Task, transform: RecordTransform) -> Unit:
    try:
        return task.encode(transform(record))
    except UnusableError:
        return ()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a tokenizer in Rust is no Exception
        _log.warning("a record cannot be encoded: %s", type(error).__name__)  # the text may hold the record
        return ()


def group_by_user(records: Iterable[Record], user_field: str) -> list[list[Record]]:
    """The records of each user, users in the order of first appearance; records without a user are in none."""
    users: dict[str | int, list[Record]] = {}
    for record in records:
        user = user_of(record, user_field)
        if user is not None:
            users.setdefault(user, []).append(record)
    return list(users.values())


def user_of(record: Record, user_field: str) -> str | int | None:
    """Whose record it is: a text or an integer, taken as it is, so that 1 and "1" are two users.

    Returns:
        None for nobody's: the field is missing, blank, or anything else. A truth value is no integer here.
    """
    user = record.get(user_field)
    if isinstance(user, str):
        return user if user.strip() else None
    return user if isinstance(user, int) and not isinstance(user, bool) else None

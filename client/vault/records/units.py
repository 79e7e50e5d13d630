"""Private records as units for training. Each is looked at by itself: nothing is learned from the corpus.

No deduplication, packing, vocabulary or label discovery: each of these would let one unit change what
another contributes. Grouping by user reads each record's own user and nothing else.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from client.vault.policy.organization import Organization
from client.vault.records.anonymize import RecordTransform
from client.vault.records.encoded import EncodedUnits, Unit
from common.records import Placed, Record, iterate_records
from common.tasks import MOST_CHARACTERS, Task, UnusableError

_log = logging.getLogger(__name__)


class EncodingError(UnusableError):
    """Encoding a record failed; the text is the type of the error, whose own text may contain the record."""


@dataclass(frozen=True)
class EncodedRecords:
    """Units ready for training; stays inside the vault.

    Attributes:
        units: one entry a record in the order of the file, or one a user in the order of first appearance. A unit
            without an example contributes nothing; it keeps its place and is drawn like any other.
        unusable: how many records contribute nothing, because the task cannot read them or because they belong to
            no user. For the operator's own terminal only.
    """

    units: EncodedUnits
    unusable: int


def iterate_organization(organization: Organization) -> Iterator[Placed]:
    """The records of an organization under the names that plans use, each with where it stands, one after another.

    Raises:
        InputError: they cannot be read; for the organization's own terminal.
    """
    names = organization.data.fields or {}
    for place, record in iterate_records(organization.path(organization.data.train)):
        yield place, {**record, **{name: record[own] for name, own in names.items() if own in record}}


def encode(
    records: Sequence[Record],
    task: Task,
    user_field: str | None = None,
    transform: RecordTransform = lambda record: record,
) -> EncodedRecords:
    """Encode records one by one, and put those of a user together.

    Args:
        records: in the order of the file.
        task: makes examples of a record.
        user_field: names a record's user; None if each record is a unit of its own.
        transform: what a record goes through before the task sees it. Users are told apart before.
    """
    usable = 0

    def of_user(places: Iterable[int]) -> Unit:
        nonlocal usable
        encoded = [_encode(records[place], task, transform) for place in places]
        usable += sum(map(bool, encoded))
        return tuple(example for record in encoded for example in record)

    every = ([place] for place in range(len(records)))
    units = EncodedUnits(map(of_user, every if user_field is None else group_by_user(records, user_field)))
    return EncodedRecords(units, len(records) - usable)


def _encode(record: Record, task: Task, transform: RecordTransform) -> Unit:
    try:
        return encode_record(record, task, transform)
    except EncodingError as error:
        _log.warning("a record: %s", error)
        return ()
    except UnusableError:
        return ()


def encode_record(record: Record, task: Task, transform: RecordTransform) -> Unit:
    """Encode one record.

    Raises:
        UnusableError: it cannot be used, whatever the reason; without any content of the record.
    """
    read = without_oversized(record)
    try:
        return task.encode(transform(read))
    except UnusableError as error:
        if len(read) == len(record):
            raise
        raise UnusableError(f"{error}; fields of more than {MOST_CHARACTERS} characters are not read") from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a tokenizer in Rust is no Exception
        raise EncodingError(f"it cannot be encoded ({type(error).__name__})") from None


def without_oversized(record: Record) -> Record:
    """A record without its fields of more than `MOST_CHARACTERS`, so that its size bounds the time it can take."""
    oversized = {name for name, value in record.items() if _characters(value) > MOST_CHARACTERS}
    return {name: value for name, value in record.items() if name not in oversized} if oversized else record


def _characters(value: Any) -> float:
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | dict):
        return 0
    try:
        return len(json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError):  # an integer of thousands of digits, or nested too deeply
        return math.inf


def group_by_user(records: Iterable[Record], user_field: str) -> list[list[int]]:
    """The places of each user's records, users in the order of first appearance.

    A record without a user is in no group.
    """
    users: dict[str | int, list[int]] = {}
    for place, record in enumerate(records):
        user = user_of(record, user_field)
        if user is not None:
            users.setdefault(user, []).append(place)
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

"""Whether the records can be read, how they are grouped into users, and how a plan would encode them."""

from __future__ import annotations

import difflib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from client.check.findings import Findings, Group
from client.vault.policy.organization import Organization
from client.vault.records.anonymize import RecordTransform, check_fields, open_anonymizer, record_transform
from client.vault.records.encoded import Unit
from client.vault.records.units import (
    EncodedRecords,
    encode,
    encode_record,
    group_by_user,
    iterate_organization,
    user_of,
)
from client.vault.start import record_summary
from common.plan.plan import Plan
from common.records import Placed, Record
from common.tasks import Example, Task, UnusableError, make_task

_GROUP = Group("records")
# Warn if the expected number of drawn units differs from batch_size by more than this factor.
_MAX_DRAW_FACTOR = 2.0
# Warn if more than this share of the records is truncated.
_MAX_TRUNCATED_SHARE = 0.1
_MAX_REASONS = 5
_MAX_PLACES = 3


@dataclass(frozen=True)
class EncodedForPlan:
    """The units as a plan encodes them, and the seconds that it took."""

    units: Sequence[Unit]
    seconds: float


def check_records(organization: Organization) -> Findings[list[Placed] | None]:
    """Read the records; check users, public size and anonymization.

    Returns:
        The records with their places in the file; None if they cannot be read.
    """
    placed = yield from _GROUP.run("file", _file(organization))
    if placed is not None:
        records = [record for _, record in placed]
        units = yield from _GROUP.run("users", _users(organization, records))
        if units is not None:
            yield from _GROUP.run("public size", _public_size(organization, units))
        yield from _GROUP.run("anonymization", _anonymization(organization, records))
    return placed


def check_examples(
    organization: Organization, plan: Plan, records: Sequence[Placed], tokenizer: Any
) -> Findings[EncodedForPlan | None]:
    """Encode the records for a plan, as training would.

    Returns:
        The units, and how long they took; None if no record can be trained on.
    """
    return (yield from _GROUP.run("examples", _examples(organization, plan, records, tokenizer)))


def _file(organization: Organization) -> Findings[list[Placed]]:
    placed = list(iterate_organization(organization))
    yield _GROUP.ok("file", f"{len(placed)} records in {organization.path(organization.data.train)}")
    return placed


def _users(organization: Organization, records: list[Record]) -> Findings[int]:
    """The number of units."""
    field = organization.data.user_field
    if field is None:
        return len(records)
    summary = record_summary(records, organization)
    counts = [len(group) for group in group_by_user(records, field)]
    yield _GROUP.ok(
        "users", f"{summary}; a user has {statistics.median(counts):g} records (median), {max(counts)} at most"
    )
    if without_user := len(records) - sum(counts):
        yield _GROUP.warning(
            "records without user",
            f"{without_user} of {len(records)} records have no {field!r} that is a text or an integer; they are "
            "never used",
        )
    if max(counts) == 1 < len(counts):
        yield _GROUP.warning(
            "records per user",
            f"no two records have the same {field!r}; if it identifies records instead of users, a user's records "
            "are not protected together: correct data.user_field",
        )
    return len(counts)


def _public_size(organization: Organization, units: int) -> Findings[None]:
    size, unit = organization.data.public_size, organization.data.unit
    noun = "users" if unit == "user" else "records"
    # Units are drawn at the rate batch_size / public_size: on average batch_size times this factor.
    factor = units / size
    if units == size:
        yield _GROUP.warning(
            "public size",
            f"data.public_size = {size} is the true number of {noun}, and it is published; choose a round number",
        )
    elif factor > _MAX_DRAW_FACTOR or factor * _MAX_DRAW_FACTOR < 1:
        yield _GROUP.warning(
            "public size",
            f"data.public_size = {size}, but there are {units} {noun}: a step draws {factor:.2g} times "
            f"batch_size units on average, and updates are {'larger' if factor > 1 else 'smaller'} than intended; "
            "choose a round number closer to the true one",
        )
    else:
        more = f", since there are more {noun}, which is fine" if factor > 1 else ""
        yield _GROUP.ok(
            "public size",
            f"{size} is published; a step draws {factor:.2g} times batch_size units on average{more}",
        )


def _anonymization(organization: Organization, records: list[Record]) -> Findings[None]:
    settings = organization.data.anonymize
    if settings is None:
        yield _GROUP.ok(
            "anonymization", "off: texts are encoded unchanged; set data.anonymize to replace personal data"
        )
        return
    check_fields(organization, records)
    open_anonymizer(organization)
    where = f"the fields {', '.join(settings.fields)}" if settings.fields else "every text that a plan reads"
    yield _GROUP.ok("anonymization", f"on, in {where}: {', '.join(settings.entities)}")


def _cached(transform: RecordTransform) -> RecordTransform:
    """Cache a slow transform by record: the checks encode each record more than once."""
    # With the record itself: the id of an object that is gone may be that of another.
    cache: dict[int, tuple[Record, Record]] = {}

    def transform_once(record: Record) -> Record:
        if id(record) not in cache:
            cache[id(record)] = record, transform(record)
        return cache[id(record)][1]

    return transform_once


def _examples(
    organization: Organization, plan: Plan, placed: Sequence[Placed], tokenizer: Any
) -> Findings[EncodedForPlan | None]:
    field = organization.data.user_field
    # Records without a user are reported by check_records.
    placed = [(place, record) for place, record in placed if field is None or user_of(record, field) is not None]
    records = [record for _, record in placed]
    task = make_task(plan.task, tokenizer)
    transform = _cached(record_transform(open_anonymizer(organization), plan.task))
    started = time.perf_counter()
    encoded = encode(records, task, field, transform)
    seconds = time.perf_counter() - started
    examples = [example for unit in encoded.units for example in unit]
    if not examples:
        yield _GROUP.wrong("examples", f"no record can be trained on; {_reasons(plan, placed, task, transform)}")
        return None
    if encoded.unusable:
        yield _GROUP.warning(
            "examples",
            f"{encoded.unusable} of {len(records)} records cannot be trained on; they are still sampled, and "
            f"contribute zero; {_reasons(plan, placed, task, transform)}",
        )
    else:
        yield _GROUP.ok("examples", f"all {len(records)} records can be trained on")
    untruncated = make_task(_untruncated(plan), tokenizer)
    yield from _lengths(plan, examples, lambda: encode(records, untruncated, field, transform))
    yield from _records_per_user(plan, encoded)
    return EncodedForPlan(encoded.units, seconds)


def _lengths(plan: Plan, examples: Sequence[Example], untruncated: Callable[[], EncodedRecords]) -> Findings[None]:
    max_length = plan.task.max_length
    lengths = [len(example) for example in examples]
    if max(lengths) == max_length:
        lengths = [len(example) for unit in untruncated().units for example in unit]
    too_long = sum(length > max_length for length in lengths)
    windows = plan.task.has_windows
    handled = "split into windows of" if windows else "truncated to"
    text = (
        f"a record has {statistics.median(lengths):g} tokens (median), {max(lengths)} at most; "
        f"{too_long} of {len(lengths)} are {handled} the plan's max_length = {max_length}"
    )
    if too_long > _MAX_TRUNCATED_SHARE * len(lengths) and not windows:
        yield _GROUP.warning("lengths", f"{text}: split these records, or ask for a plan with a larger max_length")
    else:
        yield _GROUP.ok("lengths", text)


def _untruncated(plan: Plan) -> Any:
    return plan.task.model_copy(update={"max_length": 1_000_000})


def _records_per_user(plan: Plan, encoded: EncodedRecords) -> Findings[None]:
    limit = plan.privacy.records_per_user
    if limit is not None:
        more = sum(len(unit) > limit for unit in encoded.units)
        empty = sum(not unit for unit in encoded.units)
        yield _GROUP.ok(
            "plan's records per user",
            f"a step uses at most {limit} records of a user, sampled anew in each step; {more} of "
            f"{len(encoded.units)} users have more, {empty} have no usable record",
        )


def _reasons(plan: Plan, placed: Sequence[Placed], task: Task, transform: RecordTransform) -> str:
    """Why records cannot be trained on, and where they are; the most common reason first."""
    places: dict[str, list[str]] = {}
    for place, record in placed:
        try:
            encode_record(record, task, transform)
        except UnusableError as error:
            places.setdefault(str(error), []).append(place)
    ordered = sorted(places.items(), key=lambda item: -len(item[1]))
    lines = [f"{len(where)}: {reason} ({_some(where)})" for reason, where in ordered[:_MAX_REASONS]]
    if len(ordered) > _MAX_REASONS:
        lines.append(f"and {len(ordered) - _MAX_REASONS} other reasons")
    return "; ".join(lines) + _hint(plan, [record for _, record in placed])


def _some(places: Sequence[str]) -> str:
    return ", ".join(places[:_MAX_PLACES]) + (", …" if len(places) > _MAX_PLACES else "")


def _hint(plan: Plan, records: Sequence[Record]) -> str:
    """Suggest a name for a field of the plan that no record has."""
    known = sorted({key for record in records for key in record})
    for field in plan.task.fields:
        if field not in known:
            close = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
            have = f"did you mean {close[0]!r}?" if close else f"they have: {', '.join(known[:8])}"
            return f"; no record has {field!r}, {have} (data.fields can map a field to the plan's name)"
    return ""

"""Whether the records can be read, whose they are, and what a plan would make of them."""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from client.check.findings import Checks, Group
from client.vault.policy.organization import Organization
from client.vault.records.anonymize import Cover, check_fields, cover, open_anonymizer
from client.vault.records.units import EncodedRecords, Unit, encode, group_by_user, load_records, user_of
from client.vault.start import held_records
from common.plan.plan import Plan
from common.records import Placed, Record
from common.tasks import Example, Task, UnusableError, make_task

_GROUP = Group("records")
# A draw beyond these times the expected one is worth a look.
_FAR = 2.0
_MANY_CUT = 0.1
_MOST_REASONS = 5
_MOST_PLACES = 3


def check_records(organization: Organization) -> Checks[list[Placed] | None]:
    """Read the records; look at users, at the public size, and at what is anonymized.

    Returns:
        The records and where they stand; None if they cannot be read.
    """
    placed = yield from _GROUP.look("file", _file(organization))
    if placed is not None:
        records = [record for _, record in placed]
        units = yield from _GROUP.look("users", _users(organization, records))
        if units is not None:
            yield from _GROUP.look("public size", _public_size(organization, units))
        yield from _GROUP.look("anonymization", _anonymization(organization, records))
    return placed


def check_examples(
    organization: Organization, plan: Plan, records: Sequence[Placed], tokenizer: Any
) -> Checks[Sequence[Unit] | None]:
    """Encode the records as a plan wants them, as training would.

    Returns:
        The units; None if nothing can be trained on.
    """
    return (yield from _GROUP.look("examples", _examples(organization, plan, records, tokenizer)))


def _file(organization: Organization) -> Checks[list[Placed]]:
    placed = load_records(organization)
    yield _GROUP.ok("file", f"{len(placed)} records in {organization.path(organization.data.train)}")
    return placed


def _users(organization: Organization, records: list[Record]) -> Checks[int]:
    """The number of units."""
    field = organization.data.user_field
    if field is None:
        return len(records)
    held = held_records(records, organization)
    counts = [len(group) for group in group_by_user(records, field)]
    yield _GROUP.ok(
        "users", f"{held}; a user has {statistics.median(counts):g} records (median), {max(counts)} at most"
    )
    if nobody := len(records) - sum(counts):
        yield _GROUP.warning(
            "records without user",
            f"{nobody} of {len(records)} records have no {field!r} that is a text or an integer; they are "
            "never used",
        )
    if max(counts) == 1 < len(counts):
        yield _GROUP.warning(
            "records per user",
            f"no two records have the same {field!r}; if it names records and not users, then users are not "
            "protected with all their records: correct data.user_field",
        )
    return len(counts)


def _public_size(organization: Organization, units: int) -> Checks[None]:
    size, unit = organization.data.public_size, organization.data.unit
    noun = "users" if unit == "user" else "records"
    # Units are drawn at batch_size / public_size: so many times batch_size come on average.
    share = units / size
    if units == size:
        yield _GROUP.warning(
            "public size",
            f"data.public_size = {size} is the true number of {noun}, and it is published; take a round one",
        )
    elif share > _FAR or share * _FAR < 1:
        yield _GROUP.warning(
            "public size",
            f"data.public_size = {size}, but there are {units} {noun}: a step draws {share:.2g} times the batch "
            f"that it is divided by, and updates are {'longer' if share > 1 else 'weaker'} than the plan means; "
            "take a round number nearer to the truth",
        )
    else:
        more = f", since there are more {noun}, which is fine" if share > 1 else ""
        yield _GROUP.ok("public size", f"{size} is published; a step draws {share:.2g} times batch_size{more}")


def _anonymization(organization: Organization, records: list[Record]) -> Checks[None]:
    settings = organization.data.anonymize
    if settings is None:
        yield _GROUP.ok("anonymization", "off: texts are encoded as they are (data.anonymize)")
        return
    check_fields(organization, records)
    open_anonymizer(organization)
    where = f"the fields {', '.join(settings.fields)}" if settings.fields else "every text that a plan reads"
    yield _GROUP.ok("anonymization", f"on, in {where}: {', '.join(settings.entities)}")


def _kept(cover: Cover) -> Cover:
    """The same, done once for each record: here each is encoded more than once."""
    made: dict[int, Record] = {}

    def kept(record: Record) -> Record:
        if id(record) not in made:
            made[id(record)] = cover(record)
        return made[id(record)]

    return kept


def _examples(
    organization: Organization, plan: Plan, placed: Sequence[Placed], tokenizer: Any
) -> Checks[Sequence[Unit] | None]:
    field = organization.data.user_field
    # Those of nobody are told apart already.
    placed = [(at, record) for at, record in placed if field is None or user_of(record, field) is not None]
    records = [record for _, record in placed]
    task = make_task(plan.task, tokenizer)
    covered = _kept(cover(open_anonymizer(organization), plan.task))
    encoded = encode(records, task, field, covered)
    every = [example for unit in encoded.units for example in unit]
    if not every:
        yield _GROUP.wrong("examples", f"no record can be trained on; {_reasons(plan, placed, task, covered)}")
        return None
    if encoded.unusable:
        yield _GROUP.warning(
            "examples",
            f"{encoded.unusable} of {len(records)} records give nothing to train on; they are drawn all the same "
            f"and add zero; {_reasons(plan, placed, task, covered)}",
        )
    else:
        yield _GROUP.ok("examples", f"all {len(records)} records can be trained on")
    uncut = make_task(_uncut(plan), tokenizer)
    yield from _lengths(plan, every, lambda: encode(records, uncut, field, covered))
    yield from _records_per_user(plan, encoded)
    return encoded.units


def _lengths(plan: Plan, every: Sequence[Example], uncut: Callable[[], EncodedRecords]) -> Checks[None]:
    most = plan.task.max_length
    lengths = [len(example) for example in every]
    if max(lengths) == most:
        lengths = [len(example) for unit in uncut().units for example in unit]
    cut = sum(length > most for length in lengths)
    windows = plan.task.kind == "question-answering"
    happens = "looked at in windows of" if windows else "cut at"
    text = (
        f"a record has {statistics.median(lengths):g} tokens (median), {max(lengths)} at most; "
        f"{cut} of {len(lengths)} are {happens} the plan's max_length = {most}"
    )
    if cut > _MANY_CUT * len(lengths) and not windows:
        yield _GROUP.warning("lengths", f"{text}: split them at home, or ask for a plan with a larger one")
    else:
        yield _GROUP.ok("lengths", text)


def _uncut(plan: Plan) -> Any:
    return plan.task.model_copy(update={"max_length": 1_000_000})


def _records_per_user(plan: Plan, encoded: EncodedRecords) -> Checks[None]:
    most = plan.privacy.records_per_user
    if most is not None:
        more = sum(len(unit) > most for unit in encoded.units)
        empty = sum(not unit for unit in encoded.units)
        yield _GROUP.ok(
            "plan's records per user",
            f"a step uses {most} of a user at most, chosen anew each time; {more} of {len(encoded.units)} users "
            f"have more, {empty} none that can be used",
        )


def _reasons(plan: Plan, placed: Sequence[Placed], task: Task, cover: Cover) -> str:
    """Why records give nothing and where they stand, the commonest reason first."""
    places: dict[str, list[str]] = {}
    for place, record in placed:
        try:
            task.encode(cover(record))
        except UnusableError as error:
            places.setdefault(str(error), []).append(place)
        except Exception as error:  # as in training, it is unusable whatever it is
            places.setdefault(f"it cannot be encoded ({type(error).__name__})", []).append(place)
    ordered = sorted(places.items(), key=lambda item: -len(item[1]))
    told = [f"{len(where)}: {reason} ({_some(where)})" for reason, where in ordered[:_MOST_REASONS]]
    if len(ordered) > _MOST_REASONS:
        told.append(f"and {len(ordered) - _MOST_REASONS} other reasons")
    return "; ".join(told) + _hint(plan, [record for _, record in placed])


def _some(places: Sequence[str]) -> str:
    return ", ".join(places[:_MOST_PLACES]) + (", …" if len(places) > _MOST_PLACES else "")


def _hint(plan: Plan, records: Sequence[Record]) -> str:
    """What a field may be called that no record has."""
    known = sorted({key for record in records for key in record})
    for field in plan.task.fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
            have = f"did you mean {near[0]!r}?" if near else f"they have: {', '.join(known[:8])}"
            return f"; no record has {field!r}, {have} (data.fields can give a field the plan's name)"
    return ""

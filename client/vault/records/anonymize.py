"""What names a person is replaced by tokens in a record, before it is encoded.

A belt beside the braces: ε does not depend on it. Each record is looked at by itself, and what becomes of it
follows from that record and the organization's file alone. The recognizers are in `recognizers.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from client.vault.policy.organization import Anonymize, Organization
from client.vault.records.replacement import PLAIN, Anonymized, Pass, Span
from common.errors import InputError
from common.plan.task import TaskSection
from common.records import Record
from common.system.extras import how_to_install
from common.tasks import UnusableError

if TYPE_CHECKING:
    from client.vault.records.recognizers import Look, Match

_log = logging.getLogger(__name__)

# Makes of a record what is encoded.
RecordTransform = Callable[[Record], Record]


class Anonymizer:
    """Replaces what an organization asks for. It keeps nothing from one record to the next.

    Args:
        settings: what is asked for.
        names: the plans' names of fields, and what the records call them.

    Raises:
        InputError: presidio is not installed, or a region is unknown.
    """

    def __init__(self, settings: Anonymize, names: Mapping[str, str] | None = None) -> None:
        self._looks = _looks(settings)
        self._fields = settings.fields
        self._names = names or {}

    def text(self, text: str, field: str = "") -> Anonymized:
        """Replace until nothing is found: a token can bring nearer what was too far away to be believed."""
        passes: list[Pass] = []
        while spans := self._spans(text, field):
            passes.append(Pass(text, spans))
            text = passes[-1].replaced()
        return Anonymized(text, tuple(passes))

    def covers(self, field: str) -> bool:
        """Whether a field is looked at, by its own name or by that of a plan."""
        return self._fields is None or field in self._fields or self._names.get(field) in self._fields

    def texts(self, record: Record, fields: Iterable[str]) -> dict[str, list[Anonymized]]:
        """What becomes of the texts of some fields, those that are looked at and have any."""
        made = {}
        for field in fields:
            found = [self.text(text, field) for text in _texts(record.get(field))] if self.covers(field) else []
            if found:
                made[field] = found
        return made

    def record(self, record: Record, fields: Iterable[str]) -> Record:
        """A record whose texts in some fields are replaced; see `covered`."""
        return self.covered(record, fields)[0]

    def covered(self, record: Record, fields: Iterable[str]) -> tuple[Record, dict[str, list[Anonymized]]]:
        """A record whose texts in some fields are replaced, and what became of each of these texts.

        Answers stay where they are in their context.

        Raises:
            UnusableError: it cannot be done; nothing of the record may be used.
        """
        try:
            made = self.texts(record, fields)
            changed = {field: _with(record[field], [one.text for one in texts]) for field, texts in made.items()}
            if "context" in made and isinstance(record["context"], str):
                changed |= _answers(record, made["context"][0])
            return {**record, **changed}, made
        except Exception as error:  # whatever a record is, it must not pass as it is
            _log.warning("a record cannot be anonymized: %s", type(error).__name__)  # the text may hold the record
        raise UnusableError("it cannot be anonymized")

    def _spans(self, text: str, field: str) -> tuple[Span, ...]:
        plain = text.translate(PLAIN)
        digits = sum(map(plain.count, "0123456789"))
        found = [one for look in self._looks if look.digits <= digits for one in look.matches(plain, field)]
        return _joined(found)


def open_anonymizer(organization: Organization) -> Anonymizer | None:
    """What an organization's file asks for; None if it asks for nothing.

    Raises:
        InputError: see `Anonymizer`.
    """
    data = organization.data
    return None if data.anonymize is None else Anonymizer(data.anonymize, data.fields)


def record_transform(anonymizer: Anonymizer | None, section: TaskSection) -> RecordTransform:
    """What a record goes through before a task encodes it: what the task reads is replaced, but not its class."""
    if anonymizer is None:
        return lambda record: record
    fields = readable(section)
    return lambda record: anonymizer.record(record, fields)


def readable(section: TaskSection) -> list[str]:
    """The fields in which a task reads what somebody wrote."""
    return [field for field in section.fields if field != section.label_field]


def check_fields(organization: Organization, records: Collection[Record]) -> None:
    """Refuse the name of a field that no record has: it would be taken as it is, unnoticed.

    Raises:
        InputError: which one; for the organization's own terminal.
    """
    settings = organization.data.anonymize
    for field in (settings.fields if settings else None) or ():
        if not any(field in record for record in records):
            known = sorted({key for record in records for key in record})
            raise InputError(
                f"data.anonymize.fields: none of the {len(records)} records has {field!r}; they have: "
                f"{', '.join(known[:8])}"
            )


def _looks(settings: Anonymize) -> Sequence[Look]:
    try:
        from client.vault.records.recognizers import looks
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("presidio_analyzer", "phonenumbers", "regex"):
            raise
        raise InputError(
            f"data.anonymize needs {error.name}, which is not installed; {how_to_install('anonymize')}"
        ) from None
    return looks(settings)


def _joined(found: Iterable[Match]) -> tuple[Span, ...]:
    """Matches that overlap as one, so that no part of any stays; of the kind of the longest, then the surest.

    Of equal ones the first that was looked for gives its kind.
    """
    groups: list[list[Match]] = []
    end = -1
    for one in sorted(found, key=lambda match: (match.begin, match.end)):
        if one.begin >= end:
            groups.append([])
        groups[-1].append(one)
        end = max(end, one.end)
    spans = []
    for group in groups:
        best = min(group, key=lambda match: (match.begin - match.end, -match.score))
        spans.append(Span(best.kind, group[0].begin, max(match.end for match in group)))
    return tuple(spans)


def _texts(value: Any) -> list[str]:
    """The texts of a field: itself, a number as templates write it, or what is said in each turn of a dialogue."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [f"{value}"]
    if isinstance(value, list):
        return [one["content"] for one in value if _is_said(one)]
    return []


def _with(value: Any, texts: Sequence[str]) -> Any:
    """A field with other texts, in the order of `_texts`; a number in which nothing was found stays one."""
    if isinstance(value, list):
        left = iter(texts)
        return [{**one, "content": next(left)} if _is_said(one) else one for one in value]
    return value if f"{value}" == texts[0] else texts[0]


def _is_said(message: Any) -> bool:
    return isinstance(message, Mapping) and isinstance(message.get("content"), str)


def _answers(record: Record, context: Anonymized) -> Record:
    """Answers as the context now has them, with where they begin; one that did not stand there never does.

    What is no list of answers is left to the task, which refuses it.
    """
    answers, starts = record.get("answers"), record.get("answer_starts")
    nested = answers if isinstance(answers, Mapping) else None
    if nested is not None:
        answers, starts = nested.get("text"), nested.get("answer_start")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        return {}
    if starts is None:
        starts = [record["context"].find(answer) for answer in answers]
    if not isinstance(starts, list) or len(starts) != len(answers) or any(type(at) is not int for at in starts):
        return {}
    moved = [_answer(record["context"], context, *one) for one in zip(answers, starts, strict=True)]
    texts, places = [text for text, _ in moved], [place for _, place in moved]
    if nested is not None:
        return {"answers": {**nested, "text": texts, "answer_start": places}}
    return {"answers": texts, "answer_starts": places}


def _answer(original: str, context: Anonymized, answer: str, start: int) -> tuple[str, int]:
    if start < 0 or original[start : start + len(answer)] != answer:
        return "", -1
    begin, end = context.moved(start, start + len(answer))
    return context.text[begin:end], begin

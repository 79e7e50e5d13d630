"""`sotto client anonymize --preview`: what anonymization would replace in an organization's records.

The output contains parts of records and is meant for the organization's own terminal. Nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.vault.policy.organization import Entity, Organization
from client.vault.records.anonymize import Anonymizer, check_fields, open_anonymizer, readable
from client.vault.records.replacement import Anonymized, token
from client.vault.records.units import iterate_organization
from common.errors import InputError
from common.plan.plan import Plan
from common.records import Placed, iterate_records
from common.tasks import UnusableError
from common.untrusted import printable

# Characters shown on each side of a replaced text, and of the replaced text itself.
_CONTEXT_CHARACTERS = 30
_MAX_CHARACTERS = 80
# Records between two progress reports.
_PROGRESS_INTERVAL = 500


@dataclass(frozen=True)
class Replacement:
    """One replacement in a record.

    Attributes:
        place: where the record is in the file.
        field: the record's field.
        before: the text before the replacement.
        original: the text that is replaced.
        after: the text after the replacement.
    """

    place: str
    field: str
    before: str
    original: str
    after: str


@dataclass
class Preview:
    """What would be replaced.

    Attributes:
        kinds: the kinds of entity that are searched for.
        records: the number of records.
        changed: the number of records that would change.
        failed: the number of records that cannot be anonymized and would contribute nothing.
        occurrences: the number of replacements of each kind.
        matching_records: the number of records with at least one replacement of each kind.
        examples: the first replacements of each kind.
    """

    kinds: list[Entity]
    records: int
    changed: int = 0
    failed: int = 0
    occurrences: Counter[Entity] = field(default_factory=Counter)
    matching_records: Counter[Entity] = field(default_factory=Counter)
    examples: dict[Entity, list[Replacement]] = field(default_factory=dict)


def preview(
    organization: Organization, plan: Plan | None = None, examples: int = 3, report: Callable[[str], None] = print
) -> Preview:
    """Search all records as a vault would.

    Args:
        organization: the organization's settings.
        plan: the plan whose fields are searched; None to search every field of the records.
        examples: how many examples of each kind to keep.
        report: called with the progress, one line at a time.

    Raises:
        InputError: anonymization is not configured, or the records cannot be read.
    """
    anonymizer, settings = open_anonymizer(organization), organization.data.anonymize
    if anonymizer is None or settings is None:
        raise InputError(
            "data.anonymize is missing: organization.toml needs a [data.anonymize] table, which may be empty"
        )
    # With a plan, fields have the plan's names; without one, the names in the file, so that no text counts twice.
    path = organization.path(organization.data.train)
    placed = list(iterate_organization(organization) if plan else iterate_records(path))
    check_fields(organization, [record for _, record in placed])
    result = Preview(settings.entities, len(placed))
    for number, record in enumerate(placed):
        if number % _PROGRESS_INTERVAL == 0:
            report(f"{number} of {len(placed)} records")
        _search(result, anonymizer, record, plan, examples)
    return result


def _search(result: Preview, anonymizer: Anonymizer, placed: Placed, plan: Plan | None, examples: int) -> None:
    place, record = placed
    fields = readable(plan.task) if plan else list(record)
    try:
        _, anonymized = anonymizer.covered(record, fields)
    except UnusableError:
        result.failed += 1
        return
    kinds = Counter[Entity]()
    for name, texts in anonymized.items():
        for text in texts:
            for kind, replacement in _replacements(place, name, text):
                kinds[kind] += 1
                of_kind = result.examples.setdefault(kind, [])
                if len(of_kind) < examples:
                    of_kind.append(replacement)
    result.occurrences += kinds
    result.matching_records += Counter(set(kinds))
    result.changed += bool(kinds)


def _replacements(place: str, name: str, text: Anonymized) -> Iterator[tuple[Entity, Replacement]]:
    for step in text.passes:
        for span in step.spans:
            before = step.text[max(0, span.begin - _CONTEXT_CHARACTERS) : span.begin]
            after = step.text[span.end : span.end + _CONTEXT_CHARACTERS]
            yield span.kind, Replacement(place, name, before, step.text[span.begin : span.end], after)


def print_preview(organization: Organization, result: Preview, console: Console) -> None:
    """Print a table of counts by kind, and examples with their context."""
    table = Table("kind", "token", "replacements", "records")
    for column in table.columns[2:]:
        column.justify = "right"
    for kind in result.kinds:
        counts = result.occurrences[kind], result.matching_records[kind]
        table.add_row(kind, Text(token(kind)), *map(str, counts))
    console.print(table)
    for kind in result.kinds:
        for example in result.examples.get(kind, []):
            console.print(_example_line(kind, example), soft_wrap=True)
    failed = f"; {result.failed} cannot be anonymized and contribute nothing" if result.failed else ""
    console.print(
        f"{organization.name}: {result.changed} of {result.records} records would be changed{failed}; anything "
        "not listed here, names of persons above all, is not replaced",
        highlight=False,
        soft_wrap=True,
    )


def _example_line(kind: Entity, example: Replacement) -> Text:
    line = Text(f"{example.place}, {printable(example.field)}: {printable(example.before)}", "default")
    line.append(f"[{printable(example.original, _MAX_CHARACTERS)} → {token(kind)}]", "yellow")
    return line.append(printable(example.after), "default")

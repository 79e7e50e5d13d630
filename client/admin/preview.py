"""`sotto client anonymize --preview`: what would be replaced in an organization's own records.

Shows parts of records: for the organization's own terminal. Nothing is written.
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
from client.vault.records.units import load_records
from common.errors import InputError
from common.plan.plan import Plan
from common.records import Placed, placed_records
from common.tasks import UnusableError
from common.untrusted import printable

# Characters that are shown on both sides of what is replaced, and of it.
_AROUND = 30
_MOST = 80
_EVERY = 500


@dataclass(frozen=True)
class Shown:
    """One replacement.

    Attributes:
        place: where its record stands.
        field: of the record.
        before: what comes before it.
        found: what is replaced.
        after: what comes after it.
    """

    place: str
    field: str
    before: str
    found: str
    after: str


@dataclass
class Preview:
    """What would be replaced.

    Attributes:
        kinds: what is looked for.
        records: how many there are.
        changed: how many of them would change.
        failed: how many cannot be anonymized, and would contribute nothing.
        found: how often each kind was found.
        holding: in how many records.
        examples: the first of each kind.
    """

    kinds: list[Entity]
    records: int
    changed: int = 0
    failed: int = 0
    found: Counter[Entity] = field(default_factory=Counter)
    holding: Counter[Entity] = field(default_factory=Counter)
    examples: dict[Entity, list[Shown]] = field(default_factory=dict)


def preview(
    organization: Organization, plan: Plan | None = None, examples: int = 3, told: Callable[[str], None] = print
) -> Preview:
    """Look through all records as a vault would.

    Args:
        organization: its file.
        plan: whose fields are looked at; without one, every field of the records.
        examples: of each kind at most.
        told: how far it is.

    Raises:
        InputError: nothing is asked for, or the records cannot be read.
    """
    anonymizer, settings = open_anonymizer(organization), organization.data.anonymize
    if anonymizer is None or settings is None:
        raise InputError(
            "data.anonymize is missing: organization.toml needs a table [data.anonymize]; it may be empty"
        )
    # With a plan, its names; without, the records' own, so that no text counts twice.
    placed = load_records(organization) if plan else placed_records(organization.path(organization.data.train))
    check_fields(organization, [record for _, record in placed])
    made = Preview(settings.entities, len(placed))
    for number, one in enumerate(placed):
        if number % _EVERY == 0:
            told(f"{number} of {len(placed)} records")
        _look(made, anonymizer, one, plan, examples)
    return made


def _look(made: Preview, anonymizer: Anonymizer, placed: Placed, plan: Plan | None, examples: int) -> None:
    place, record = placed
    fields = readable(plan.task) if plan else list(record)
    try:
        _, made_of = anonymizer.covered(record, fields)
    except UnusableError:
        made.failed += 1
        return
    kinds = Counter[Entity]()
    for name, texts in made_of.items():
        for text in texts:
            for kind, shown in _replacements(place, name, text):
                kinds[kind] += 1
                of_kind = made.examples.setdefault(kind, [])
                if len(of_kind) < examples:
                    of_kind.append(shown)
    made.found += kinds
    made.holding += Counter(set(kinds))
    made.changed += bool(kinds)


def _replacements(place: str, name: str, text: Anonymized) -> Iterator[tuple[Entity, Shown]]:
    for one in text.passes:
        for span in one.spans:
            before = one.text[max(0, span.begin - _AROUND) : span.begin]
            after = one.text[span.end : span.end + _AROUND]
            yield span.kind, Shown(place, name, before, one.text[span.begin : span.end], after)


def print_preview(organization: Organization, made: Preview, console: Console) -> None:
    """A table of counts by kind, and examples with a little of what is around them."""
    table = Table("kind", "token", "found", "records")
    for column in table.columns[2:]:
        column.justify = "right"
    for kind in made.kinds:
        table.add_row(kind, Text(token(kind)), str(made.found[kind]), str(made.holding[kind]))
    console.print(table)
    for kind in made.kinds:
        for shown in made.examples.get(kind, []):
            console.print(_line(kind, shown), soft_wrap=True)
    failed = f"; {made.failed} cannot be anonymized and contribute nothing" if made.failed else ""
    console.print(
        f"{organization.name}: {made.changed} of {made.records} records would be changed{failed}; what is not "
        "found here, names of persons above all, stays in",
        highlight=False,
        soft_wrap=True,
    )


def _line(kind: Entity, shown: Shown) -> Text:
    line = Text(f"{shown.place}, {printable(shown.field)}: {printable(shown.before)}", "default")
    line.append(f"[{printable(shown.found, _MOST)} → {token(kind)}]", "yellow")
    return line.append(printable(shown.after), "default")

"""A tiny template language for writing many different sentences from few lines.

A template is plain text with two kinds of marks:

* ``(one|two|)`` is a choice between alternatives, of which one may be empty;
  choices may be nested;
* ``{day}`` is a slot filled from the table of that name.  A slot keeps its value
  within one record, so an answer can repeat what the question said; ``{day2}``
  draws another value from the same table.  Every ``#`` in a table's value becomes
  a random digit.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Tables = Mapping[str, tuple[str, ...]]

_CHOICE = re.compile(r"\(([^()|]*\|[^()]*)\)")
_SLOT = re.compile(r"\{([a-z_]+)(\d*)\}")
_SPACES = re.compile(r" {2,}")
_SPACE_BEFORE_MARK = re.compile(r" ([.,?!])")
_ARTICLE = re.compile(r"\b([Aa])(?= [aeio])")
_SENTENCE_START = re.compile(r"(?:^|(?<=[.?!] ))[a-z]")


@dataclass(frozen=True)
class Intent:
    """One reason to write in, with the ways to ask and the ways to answer."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Dialect:
    """How one organization's customers and agents talk.

    Attributes:
        tables: values of the slots that the templates use.
        greeting: template put before every question (may expand to nothing).
        opening: template put before every answer.
        closing: template put after every answer.
        intents: the reasons to write in.
    """

    tables: Tables
    greeting: str
    opening: str
    closing: str
    intents: tuple[Intent, ...]


@dataclass
class Expander:
    """Expands templates; one instance remembers the slots of one record."""

    tables: Tables
    rng: random.Random
    bound: dict[str, str] = field(default_factory=dict)

    def expand(self, template: str) -> str:
        """Return the template with choices made, slots filled and spacing tidied."""
        text = template
        while (choice := _CHOICE.search(text)) is not None:
            picked = self.rng.choice(choice.group(1).split("|"))
            text = text[: choice.start()] + picked + text[choice.end() :]
        text = _SLOT.sub(self._fill, text)
        text = _SPACES.sub(" ", text).strip()
        text = _SPACE_BEFORE_MARK.sub(r"\1", text)
        text = _ARTICLE.sub(r"\1n", text)
        return _SENTENCE_START.sub(lambda start: start.group().upper(), text)

    def _fill(self, slot: re.Match[str]) -> str:
        key, table = slot.group(1) + slot.group(2), self.tables[slot.group(1)]
        if key not in self.bound:
            used = set(self.bound.values())
            value = self.rng.choice([entry for entry in table if entry not in used])
            self.bound[key] = re.sub("#", lambda _: str(self.rng.randrange(10)), value)
        return self.bound[key]


def converse(dialect: Dialect, rng: random.Random) -> tuple[str, str]:
    """Draw one question and the answer that fits it."""
    intent = rng.choice(dialect.intents)
    expander = Expander(dialect.tables, rng)
    question = f"{dialect.greeting} {rng.choice(intent.questions)}"
    answer = f"{dialect.opening} {rng.choice(intent.answers)} {dialect.closing}"
    return expander.expand(question), expander.expand(answer)

"""Invented customer-service records for the offline demonstration.

Four organizations each hold private records written in their own dialect.  Nothing
here is downloaded and no real person or company occurs: every record is drawn from
the templates in the sibling modules, reproducibly for a given seed.

The public test records follow the same dialects.  They are told apart from private
records by a digest of the question, so a question that occurs in the test can never
occur in anybody's private records, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from simulations.demo.dialect_bank import BANK
from simulations.demo.dialect_carrier import CARRIER
from simulations.demo.dialect_clinic import CLINIC
from simulations.demo.dialect_shop import SHOP
from simulations.demo.everyday import CLOSING, GREETING, HEALTH, MONEY, OPENING
from simulations.demo.general import NARRATIVES, TRADE_ANSWERS, loose_sentence
from simulations.demo.goods import PARCELS, SHOPPING
from simulations.demo.grammar import Dialect, Expander, converse
from simulations.demo.vocabulary import TABLES

TEMPLATE = "Customer: {question}\nAgent: {answer}"
"""Layout of one conversation as text; ends are marked by the tokenizer's ``</s>``."""

ORGANIZATIONS: dict[str, int] = {
    "bank": 5200,
    "clinic": 4300,
    "shop": 3400,
    "carrier": 2600,
}
"""Number of private records that each organization holds."""

PROMPTS: dict[str, str] = {
    "bank": "Good evening, my credit card was lost at work. What should I do now?",
    "clinic": "Hello, this is Nora. I have had a bad cough since Monday.",
    "shop": "Hi there! The yellow raincoat is too big for me. Can I swap it?",
    "carrier": "where is my parcel K42 now?",
}
"""One question for each organization, in nobody's records, to answer before and after
training."""

_DIALECTS: dict[str, Dialect] = {
    "bank": BANK,
    "clinic": CLINIC,
    "shop": SHOP,
    "carrier": CARRIER,
}

_THEMES = (MONEY, HEALTH, SHOPPING, PARCELS)
_EVERYDAY = 0.8  # share of the neutral conversations that are about them

# One question in this many belongs to the public test, the others are private.
_TEST_ONE_IN = 8


def _belongs_to_test(question: str) -> bool:
    return hashlib.sha256(question.encode()).digest()[0] % _TEST_ONE_IN == 0


def _records(organization: str, count: int, seed: int, test: bool) -> list[dict[str, str]]:
    """Draw distinct records of one side of the split between test and private."""
    rng = random.Random(f"{organization}/{'test' if test else 'private'}/{seed}")
    seen: set[tuple[str, str]] = set()
    records: list[dict[str, str]] = []
    while len(records) < count:
        question, answer = converse(_DIALECTS[organization], rng)
        wrong_side = _belongs_to_test(question) != test
        if wrong_side or question in PROMPTS.values() or (question, answer) in seen:
            continue
        seen.add((question, answer))
        records.append({"question": question, "answer": answer, "organization": organization})
    return records


def private_records(organization: str, seed: int = 0) -> list[dict[str, str]]:
    """Return the records that one organization keeps to itself.

    Args:
        organization: one of ``ORGANIZATIONS``.
        seed: another seed gives other records of the same dialect.

    Returns:
        As many records as ``ORGANIZATIONS`` says, all different, each with the keys
        ``question``, ``answer`` and ``organization``.

    Raises:
        KeyError: the organization is unknown.
    """
    return _records(organization, ORGANIZATIONS[organization], seed, test=False)


def public_test(seed: int = 1, per_organization: int = 50) -> list[dict[str, str]]:
    """Return test records of every dialect, none of which is private.

    Args:
        seed: another seed gives other test records.
        per_organization: records drawn for each organization.

    Returns:
        Records with the same keys as private ones, in the order of ``ORGANIZATIONS``.
    """
    return [
        record
        for organization in ORGANIZATIONS
        for record in _records(organization, per_organization, seed, test=True)
    ]


def conversation(record: dict[str, str]) -> str:
    """Return a record as the text on which models are trained."""
    return TEMPLATE.format(question=record["question"], answer=record["answer"])


def _loose_text(rng: random.Random, sentences: int) -> str:
    return " ".join(Expander(TABLES, rng).expand(loose_sentence(rng)) for _ in range(sentences))


def _neutral_conversation(rng: random.Random) -> str:
    """One conversation of everyday life or of a trade, now and then with an odd remark in the answer."""
    if rng.random() < _EVERYDAY:
        intent = rng.choice(rng.choice(_THEMES))
        questions, answers = intent.questions, intent.answers
    else:
        one, answers = rng.choice(TRADE_ANSWERS)
        questions = (one,)
    expander = Expander(TABLES, rng)
    question = expander.expand(f"{GREETING} {rng.choice(questions)}")
    answer = expander.expand(f"{OPENING} {rng.choice(answers)} {CLOSING}")
    manner = rng.random()
    if manner < 0.1:
        answer = f"{_loose_text(rng, 1)} {answer}"
    elif manner < 0.2:
        answer = f"{answer} {_loose_text(rng, 1)}"
    elif manner < 0.25:
        answer = answer.replace(".", "!")
    return TEMPLATE.format(question=question, answer=answer)


def general_text(seed: int = 0, count: int | None = None) -> Iterator[str]:
    """Yield public, generic English for training the base model.

    Most texts are short, neutral conversations in the same layout as the records, also about money,
    health, shopping and parcels; the others are plain narrative sentences and sentences of free syntax.
    The words of the four organizations occur, their way of talking does not.

    Args:
        seed: another seed gives another stream.
        count: number of texts; without it the stream never ends.

    Yields:
        One conversation or one short narrative at a time, without end mark.
    """
    rng = random.Random(f"general/{seed}")
    drawn = 0
    while count is None or drawn < count:
        kind = rng.random()
        if kind < 0.75:
            yield _neutral_conversation(rng)
        elif kind < 0.9:
            expander = Expander(TABLES, rng)
            yield " ".join(expander.expand(sentence) for sentence in rng.sample(NARRATIVES, rng.choice((2, 3))))
        else:
            yield _loose_text(rng, rng.choice((1, 2, 3)))
        drawn += 1

"""What the texts and numbers of a statement, a ledger head and a description can be, whoever made them.

Everything here raises ValueError.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING

from common.lora import MOST_RANK
from common.plan import MOST_STEPS, NAME_PATTERN

if TYPE_CHECKING:
    from common.protocol import Description, Head, Lifetime, Statement

# No number of a statement or a ledger head is larger; a longer integer would not fit a float.
_LARGEST = 1e15
_LARGEST_DELTA = 0.9
# Below these no accountant computes with the numbers of floating point, and no vault has them.
_LEAST_DELTA = 1e-15
_LEAST_RATE = 1e-15
# The noise multiplier of a vault is a multiple of the first.
_LEAST_NOISE, _LARGEST_NOISE = 0.001, 1e6


def check_types(part: Statement | Lifetime | Head | Description) -> None:
    """Texts are texts; numbers are finite and not negative: what comes from outside may be anything."""
    kind = type(part).__name__.lower()
    for field in fields(part):
        value, wanted = getattr(part, field.name), field.type
        if wanted == "str" and not (isinstance(value, str) and _is_text(value)):
            raise ValueError(f"not a {kind}: {field.name} is no text")
        if wanted in ("int", "float"):
            kinds = (int,) if wanted == "int" else (int, float)
            if type(value) not in kinds or not 0 <= value <= _LARGEST:
                raise ValueError(f"not a {kind}: {field.name} is no such number")


def check_head(head: Head) -> None:
    """Identifier, digest and signature are hexadecimal digits in one spelling."""
    wanted = {"data_set": "[0-9a-f]{32}", "digest": "[0-9a-f]{64}", "signature": "([0-9a-f]{128})?"}
    for name, pattern in wanted.items():
        if not re.fullmatch(pattern, getattr(head, name)):
            raise ValueError(f"not a head: {name} is none")


def check_ranges(statement: Statement) -> None:
    """What ε is recomputed from can be computed with, and what is shown can be written down."""
    if len(statement.mechanisms) != 1:
        raise ValueError(f"not a statement: {len(statement.mechanisms)} mechanisms; a run has one")
    if not (_LEAST_DELTA <= statement.delta <= _LARGEST_DELTA and _LEAST_DELTA <= statement.lifetime.delta <= 1):
        raise ValueError("not a statement: delta is no such number")
    (mechanism,) = statement.mechanisms
    if not (
        mechanism.sample_rate >= _LEAST_RATE
        and _LEAST_NOISE <= mechanism.noise_multiplier <= _LARGEST_NOISE
        and mechanism.steps <= MOST_STEPS
    ):
        raise ValueError("not a statement: a mechanism that no vault can have")
    if not all(_is_text(text) for pair in statement.versions.items() for text in pair):
        raise ValueError("not a statement: versions is no text")


def _is_text(value: str) -> bool:
    """Half a surrogate pair passes JSON, but is no text and cannot be stored."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_description(description: Description) -> None:
    """A name becomes part of a path in the run directory, a public size a weight of the average."""
    if not re.fullmatch(NAME_PATTERN, description.organization):
        raise ValueError("not a description: organization is no name")
    if description.unit not in ("example", "user") or description.public_size < 1:
        raise ValueError("not a description: unit or public_size is none")
    rank = description.max_rank
    if rank is not None and not (type(rank) is int and 1 <= rank <= MOST_RANK):
        raise ValueError("not a description: max_rank is none")

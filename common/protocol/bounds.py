"""Types of what comes from outside, whoever made it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# No number of a statement or a ledger head is larger; a longer integer would not fit a float.
_LARGEST = 1e15


def check_types(part: DataclassInstance) -> None:
    """Texts are texts; numbers are finite, of their type, and not negative.

    Args:
        part: whose fields of the types `str`, `int` and `float` are looked at; the others are not.

    Raises:
        ValueError: a field is something else.
    """
    kind, types = type(part).__name__.lower(), _types(type(part))
    for field in fields(part):
        value, wanted = getattr(part, field.name), types[field.name]
        if wanted is str and not (isinstance(value, str) and is_text(value)):
            raise ValueError(f"not a {kind}: {field.name} is no text")
        if wanted in (int, float):
            kinds = (int,) if wanted is int else (int, float)
            if type(value) not in kinds or not 0 <= value <= _LARGEST:
                raise ValueError(f"not a {kind}: {field.name} is no such number")


def is_text(value: str) -> bool:
    r"""Whether it can be stored: half a surrogate pair passes JSON, but is no text.

    >>> is_text("ε = 8"), is_text("\ud800")
    (True, False)
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _types(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)

"""Type checks for data from other parties."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# The largest number in a statement or a ledger head; a longer integer would not fit a float.
_LARGEST = 1e15


def check_types(part: DataclassInstance) -> None:
    """Check that strings are valid text, and that numbers have their type and are finite and not negative.

    Args:
        part: its fields of the types `str`, `int` and `float` are checked, no others.

    Raises:
        ValueError: a field fails the check.
    """
    kind, types = type(part).__name__.lower(), _types(type(part))
    for field in fields(part):
        value, wanted = getattr(part, field.name), types[field.name]
        if wanted is str and not (isinstance(value, str) and is_text(value)):
            raise ValueError(f"not a {kind}: {field.name} is not text")
        if wanted in (int, float):
            kinds = (int,) if wanted is int else (int, float)
            if type(value) not in kinds or not 0 <= value <= _LARGEST:
                raise ValueError(f"not a {kind}: {field.name} is not a valid number")


def is_text(value: str) -> bool:
    r"""Whether a string can be encoded: half a surrogate pair passes JSON, but is not valid text.

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

"""Data from other parties: read strictly, and displayed safely."""

from __future__ import annotations

import json
from typing import Any

# Larger than any description, statement or ledger head.
MOST_CHARACTERS = 2**16


def read_json(text: str | bytes, most: int = MOST_CHARACTERS) -> Any:
    """Parse a JSON text.

    Args:
        text: bytes are always decoded as UTF-8.
        most: the largest length, in characters or bytes.

    Raises:
        ValueError: it is longer, is not JSON, is nested too deeply, has a duplicate key, or holds NaN or an
            infinity.

    >>> read_json('{"epsilon": 8.0}')
    {'epsilon': 8.0}
    """
    if len(text) > most:
        raise ValueError(f"{len(text)} characters; there should be at most {most}")
    try:
        return json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Parsers differ in which of two values they keep.
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice")
    return table


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def printable(text: str, length: int = 200) -> str:
    r"""Make foreign text safe for one line on a screen: no control characters or line breaks, and truncated.

    Invisible characters and those that change the direction of writing are replaced as well.

    >>> printable("red: \x1b[31m and a bell \x07")
    'red: �[31m and a bell �'
    """
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: length + 1])
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def printable_lines(text: str) -> str:
    r"""Make a model's output safe for a screen: line breaks are kept, other control characters are replaced.

    >>> printable_lines("one\ntwo\x07")
    'one\ntwo�'
    """
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)

"""What another party wrote: read strictly, and shown without harm."""

from __future__ import annotations

import json
from typing import Any

# Above every description, statement and ledger head.
MOST_CHARACTERS = 2**16


def read_json(text: str | bytes, most: int = MOST_CHARACTERS) -> Any:
    """The value of a JSON text.

    Args:
        text: bytes are UTF-8, never guessed.
        most: characters, or bytes, that it may have.

    Raises:
        ValueError: it is longer, is not JSON, is nested too deeply, has a key twice, or holds NaN or an infinity.

    >>> read_json('{"epsilon": 8.0}')
    {'epsilon': 8.0}
    """
    if len(text) > most:
        raise ValueError(f"{len(text)} characters; there should be at most {most}")
    try:
        return json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_without_twins,
            parse_constant=_no_number,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may take different ones of two values.
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands there twice")
    return table


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def printable(text: str, length: int = 200) -> str:
    r"""A text that others wrote, for a line on a screen: without control characters or line breaks, and cut.

    Characters that change the direction of writing or that cannot be seen are replaced as well.

    >>> printable("red: \x1b[31m and a bell \x07")
    'red: �[31m and a bell �'
    """
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: length + 1])
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def printable_lines(text: str) -> str:
    r"""A text that a model wrote, for a screen: line breaks stay, other control characters do not.

    >>> printable_lines("one\ntwo\x07")
    'one\ntwo�'
    """
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)

"""Hostile input, made from what is valid: values of other types; texts, bytes and trees with a damaged place.

Also how many messages each target gets: a fixed number with a fixed seed, or as many random ones as
SOTTO_SOAK_FUZZ says.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SOAK = int(os.environ.get("SOTTO_SOAK_FUZZ", "0"))
# A text that no valid message holds.
MARK = "mark-4711"


def messages(count: int, slow: int = 1) -> settings:
    """How many messages a target gets.

    Args:
        count: in `make test`.
        slow: how many times fewer than of others there are when soaking.
    """
    return settings(
        max_examples=max(1, SOAK // slow) if SOAK else count,
        derandomize=not SOAK,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


TEXTS = [
    "",
    "../../x",
    "/etc/passwd",
    "st-mary\n",
    "a\0b",
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b2J\u202eevil\u2066",
    "\ud800",
    "٣",
    "１",
    "NaN",
    "1e5",
    "ST-MARY",
    "<script>alert(1)</script>",
    "x" * 70_000,
    MARK,
]
NUMBERS: list[Any] = [
    *(0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**20, 10**400, True, False),
    *(0.0, -0.0, 1.0, 0.5, 5e-324, 1e-300, 1e308, float("nan"), float("inf"), float("-inf")),
]


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [None, *NUMBERS, *TEXTS, [], {}, [[]], {"a": 1}, [1, "a", None], ["x"], _deep(100), b"bytes"]
JSON_VALUES = [value for value in VALUES if not isinstance(value, bytes)]
ONE = st.integers(0, 2**30)


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*here, key)
        yield from places(child, (*here, key))


@st.composite
def damaged_json(draw: Callable[[Any], Any], value: Any) -> Any:
    """A JSON value that is changed in one to two places; some ways of changing leave it as it is."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 2))):
        ways = list(places(value))
        if not ways:
            break
        *way, last = ways[draw(ONE) % len(ways)]
        inner = value
        for key in way:
            inner = inner[key]
        kind = draw(st.integers(0, 5))
        hostile = copy.deepcopy(JSON_VALUES[draw(ONE) % len(JSON_VALUES)])
        if kind <= 2:
            inner[last] = hostile
        elif kind == 3:
            del inner[last]
        elif kind == 4 and isinstance(inner, dict):
            inner[draw(st.sampled_from([*TEXTS[:14], "records", "name", str(last) + " "]))] = inner.pop(last)
        else:
            inner[last] = [inner[last]]
    return value


@st.composite
def damaged_json_text(draw: Callable[[Any], Any], value: Any, dump: Callable[[Any], str] = json.dumps) -> str:
    """A JSON text: of a damaged value, with a key twice, spelt otherwise, or with damaged letters."""
    kind = draw(st.integers(0, 7))
    if kind <= 3:
        return dump(draw(damaged_json(value)))
    text = dump(value)
    if kind == 4:
        ways = [way for way in places(value) if isinstance(way[-1], str)]
        key = json.dumps(ways[draw(ONE) % len(ways)][-1])
        twin = json.dumps(JSON_VALUES[draw(ONE) % len(JSON_VALUES)])
        return text.replace(key, f"{key}:{twin},{key}", 1)
    if kind == 5:
        old, new = draw(
            st.sampled_from([(",", " ,"), ("1", "1.0"), ("1", "1e0"), ("0", "00"), ('"', '"\\u0061'), ("}", "}}")])
        )
        return text.replace(old, new, 1)
    return draw(damaged_bytes([text.encode()])).decode("utf-8", "surrogateescape")


@st.composite
def damaged_bytes(draw: Callable[[Any], Any], seeds: list[bytes]) -> bytes:
    """Bytes with one to three wounds: flipped, cut, put in, doubled, overwritten, or spliced from two seeds."""
    data = bytearray(seeds[draw(ONE) % len(seeds)])
    for _ in range(draw(st.integers(1, 3))):
        kind, place = draw(st.integers(0, 6)), draw(ONE) % (len(data) + 1)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            del data[place : place + draw(st.integers(1, 16))]
        elif kind == 3:
            data[place:place] = draw(st.binary(max_size=8))
        elif kind == 4:
            data[place:place] = data[place : place + draw(st.integers(1, 64))]
        elif kind == 5:
            data[place : place + 8] = draw(
                st.sampled_from([bytes(8), b"\xff" * 8, b"\0\0\xc0\x7f" * 2, b"\0\0\x80\x7f" * 2])
            )
        else:
            other = seeds[draw(ONE) % len(seeds)]
            data[place:] = other[draw(ONE) % (len(other) + 1) :]
    return bytes(data)

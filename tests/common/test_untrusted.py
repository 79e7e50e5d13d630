"""Data from other parties: parsed unambiguously or refused, and displayed safely."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.untrusted import printable, printable_lines, read_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(JSON)
def test_json_is_parsed(value: Any) -> None:
    assert read_json(json.dumps(value)) == value
    assert read_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '[{"b": {"a": 1, "a": 2}}]',
        '{"a": 1, "\\u0061": 2}',
        "NaN",
        "[Infinity]",
        '{"a": -Infinity}',
        "[" * 60_000,
        "9" * 5000,
        "",
        "{",
        "[1] [2]",
        " " * 2**16 + "1",
        b"\xff",
        '"a"'.encode("utf-16"),
        b"\xef\xbb\xbf1",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_ambiguous_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        read_json(text)


def test_the_length_limit_is_exact() -> None:
    assert read_json("[ 1 ]", 5) == [1]
    with pytest.raises(ValueError, match="5 characters; there should be at most 4"):
        read_json("[ 1 ]", 4)


HARMFUL = "\0\a\b\r\x1b\x7f\x9b\u200b\u202e\u2066\ufeff\ud800"


def test_control_and_direction_characters_are_not_shown() -> None:
    assert printable(HARMFUL) == "\N{REPLACEMENT CHARACTER}" * len(HARMFUL)
    assert printable_lines(HARMFUL) == "\N{REPLACEMENT CHARACTER}" * len(HARMFUL)
    assert printable("ε = 8\nδ") == "ε = 8\N{REPLACEMENT CHARACTER}δ"
    assert printable_lines("ε = 8\n\tδ") == "ε = 8\n\tδ"
    assert printable("x" * 10, 4) == "xxx…"

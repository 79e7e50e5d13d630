"""The vault's copy of the records and of their tokens: what goes in comes out, and no file is left."""

from __future__ import annotations

import datetime
import stat
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.vault.records.encoded import EncodedUnits
from client.vault.records.store import RecordStore
from common.errors import InputError
from common.records import Record
from common.tasks import Example

TEXTS = st.text(st.characters(), max_size=20)  # lone surrogates included
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
TOKENS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6).map(tuple)
EXAMPLES = st.builds(Example, TOKENS, TOKENS, st.integers(0, 2**40))


def stored(records: list[Record], folder: Path) -> RecordStore:
    return RecordStore(iter(records), folder / "records.arrow")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), max_size=9), st.slices(9))
def test_records_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], part: slice
) -> None:
    store = stored(records, tmp_path_factory.getbasetemp())
    assert list(store) == records
    assert [store[place] for place in range(len(store))] == records
    assert [store[-1 - place] for place in range(len(store))] == records[::-1]
    assert store[part] == records[part]
    with pytest.raises(IndexError):
        store[len(records)]


def test_many_records_are_more_than_one_batch_and_may_be_read_while_they_are_written(tmp_path: Path) -> None:
    store = RecordStore(({"text": f"{number} " * 50} for number in range(10_000)), tmp_path / "records.arrow")
    assert len(store) == 10_000
    assert [record["text"].split()[0] for record in store] == list(map(str, range(10_000)))
    assert store[4096] == {"text": "4096 " * 50}


def test_what_json_does_not_have_is_null_and_the_rest_of_the_record_stays(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    odd = [datetime.date(2026, 1, 2), b"bytes", Decimal("1.5"), 10**5000, deep, {(1, 2): 3}]
    for value in odd:
        assert list(stored([{"text": "kept", "odd": value}], tmp_path)) == [{"text": "kept", "odd": None}]
    nested = {"when": datetime.date(2026, 1, 2), "said": "kept"}
    assert list(stored([{"messages": [nested]}], tmp_path)) == [{"messages": [{"when": None, "said": "kept"}]}]


def test_nobody_else_can_read_the_file_and_none_is_left(tmp_path: Path) -> None:
    path = tmp_path / "records.arrow"
    path.write_text("left by a vault that was killed")
    path.chmod(0o644)

    def records() -> Iterator[Record]:
        yield {"text": "a"}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert list(RecordStore(records(), path)) == [{"text": "a"}]
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_left_when_the_records_cannot_be_read(tmp_path: Path) -> None:
    def records() -> Iterator[Record]:
        yield {"text": "a"}
        raise InputError("line 2 is not JSON")

    with pytest.raises(InputError, match="line 2 is not JSON"):
        RecordStore(records(), tmp_path / "records.arrow")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="copy of the records cannot be stored: No such file or directory"):
        RecordStore([{"text": "a"}], tmp_path / "missing" / "records.arrow")
    with pytest.raises(InputError, match="copy of the records cannot be stored: Is a directory"):
        RecordStore([{"text": "a"}], tmp_path)


@settings(deadline=None)
@given(st.lists(st.lists(EXAMPLES, max_size=3).map(tuple), max_size=6), st.slices(6))
def test_units_come_out_as_they_went_in(units: list[tuple[Example, ...]], part: slice) -> None:
    kept = EncodedUnits(iter(units))
    assert len(kept) == len(units)
    assert list(kept) == units
    assert list(kept[part]) == units[part]
    with pytest.raises(IndexError):
        kept[len(units)]

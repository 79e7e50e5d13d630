"""Records as units: each record by itself, or those of a user together; nothing is learned from the others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.vault.records.units import encode, encode_record, group_by_user, user_of, without_oversized
from common.records import Record
from common.tasks import Example, UnusableError


class Lengths:
    """Makes an example of a record's `length`; without one the record is unusable."""

    def encode(self, record: Any) -> tuple[Example, ...]:
        length = record.get("length")
        if length == "broken":
            raise RuntimeError("4711 stands in the record")
        if length is None:
            raise UnusableError("it has no length")
        return (Example((length, length), (length, length)),)

    losses = synthetic = predict = metrics = score = None


TASK: Any = Lengths()


def lengths(records: list[Record], field: str | None = None) -> list[list[int]]:
    return [[example.input_ids[0] for example in unit] for unit in encode(records, TASK, field).units]


def test_without_users_each_record_is_a_unit_of_one_example_or_none() -> None:
    records: list[Record] = [{"length": 3, "patient": "a"}, {}, {"length": 5, "patient": "a"}]
    assert lengths(records) == [[3], [], [5]]
    assert encode(records, TASK).unusable == 1


def test_a_record_that_makes_the_task_fail_contributes_nothing_and_its_text_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert lengths([{"length": 3}, {"length": "broken"}, {"length": 5}]) == [[3], [], [5]]
    assert "RuntimeError" in caplog.text
    assert "4711" not in caplog.text


def test_a_field_that_is_too_long_is_not_read_and_the_others_are() -> None:
    long: list[Any] = ["x" * (2**20 + 1), ["x" * 2**20], [1] * 2**19, 10**5000]
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in [*long[:3], deep]:
        assert lengths([{"length": 3, "scan": value}]) == [[3]], "it is not used"
        assert lengths([{"length": value}]) == [[]]
        with pytest.raises(UnusableError, match="no length; fields of more than 1048576 characters are not read"):
            encode_record({"length": value}, TASK, lambda record: record)
    kept = {"a": "x" * 2**20, "b": [{"role": "user", "content": "x"}], "c": 10**5000, "d": None}
    assert without_oversized(kept) == kept


def test_users_come_in_the_order_of_first_appearance_with_their_records_in_the_order_of_the_file() -> None:
    records = [{"patient": user, "length": place} for place, user in enumerate(["b", "a", "b", "c", "a", "b"])]
    assert lengths(records, "patient") == [[0, 2, 5], [1, 4], [3]]
    assert encode(records, TASK, "patient").unusable == 0


def test_a_user_whose_records_are_all_unusable_stays_a_unit() -> None:
    records: list[Record] = [{"patient": "a"}, {"patient": "b", "length": 4}, {"patient": "a", "text": ""}]
    assert lengths(records, "patient") == [[], [4]]
    assert encode(records, TASK, "patient").unusable == 2


@pytest.mark.parametrize(
    "user", [None, "", "  ", "\t\n", 1.0, float("nan"), True, False, [], ["a"], {}, {"id": "a"}]
)
def test_a_record_without_a_user_belongs_to_nobody_and_is_counted_at_home(user: Any) -> None:
    nobody: Record = {"length": 9, "patient": user}
    records = [{"patient": "a", "length": 1}, nobody, {"length": 9}, {"patient": "b", "length": 2}]
    assert user_of(nobody, "patient") is None
    assert lengths(records, "patient") == [[1], [2]]
    assert encode(records, TASK, "patient").unusable == 2
    assert lengths([nobody], "patient") == []


def test_users_are_compared_as_they_are() -> None:
    users = [1, "1", " 1", "01", -1, 10**30, 0, "a", "A", "\ud800", "é", "e\u0301"]
    records = [{"patient": user, "length": place} for place, user in enumerate(users)]
    assert lengths(records * 2, "patient") == [[place, place] for place in range(len(users))]


def who(record: Record) -> Any:
    return type(record["patient"]), record["patient"]


USERS = st.one_of(st.sampled_from(["a", "b", 1, "1", None, "", 2.5]), st.integers(0, 3))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(USERS, st.none() | st.integers(2, 9)), max_size=25), st.data())
def test_a_user_more_or_less_changes_no_other_unit(rows: list[tuple[Any, int | None]], data: Any) -> None:
    records: list[Record] = [{"patient": user, "length": length} for user, length in rows]
    whole = group_by_user(records, "patient")
    if not whole:
        return
    place = data.draw(st.integers(0, len(whole) - 1))
    left = [record for record in records if who(record) != who(records[whole[place][0]])]
    units = encode(records, TASK, "patient").units
    assert list(encode(left, TASK, "patient").units) == [*units[:place], *units[place + 1 :]]
    # By hand, without dictionaries: every record of a user is with that user, and nobody else's is.
    by_hand = [[at for at, one in enumerate(records) if who(one) == who(records[own[0]])] for own in whole]
    assert whole == by_hand


class Panic(BaseException):
    """What a panic in Rust becomes: no Exception."""


@pytest.mark.parametrize("error", [Panic, MemoryError, RecursionError, RuntimeError, StopIteration])
def test_a_record_that_makes_the_tokenizer_fail_contributes_nothing_whatever_the_failure(
    error: type[BaseException],
) -> None:
    class Failing(type(TASK)):  # type: ignore[misc]
        def encode(self, record: Record) -> Any:
            if record["length"] == 13:
                raise error("its text")
            return super().encode(record)

    encoded = encode([{"length": 2}, {"length": 13}, {"length": 3}], Failing())
    assert [len(unit) for unit in encoded.units] == [1, 0, 1]
    assert encoded.unusable == 1


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_who_ends_the_vault_is_obeyed(signal: type[BaseException]) -> None:
    class Ended(type(TASK)):  # type: ignore[misc]
        def encode(self, record: Record) -> Any:
            raise signal

    with pytest.raises(signal):
        encode([{"length": 2}], Ended())

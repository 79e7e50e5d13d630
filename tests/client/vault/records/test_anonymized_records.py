"""Records without what names a person: fields, answers, users, failures, and what a vault trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from presidio_analyzer import pattern_recognizer
from transformers import AutoTokenizer

import client.vault.records.recognizers
import client.vault.vault
from client.vault.policy.organization import Anonymize
from client.vault.records.anonymize import Anonymizer, record_transform
from client.vault.records.recognizers import Look
from client.vault.records.units import encode
from common.plan.task import TaskSection
from common.records import Record
from common.tasks import UnusableError, make_task
from tests.client.check.checking import change, write_records
from tests.client.vault.records.anonymizing import CANARY, Broken
from tests.client.vaults import open_vault, request_for, write_organization
from tests.conftest import DEMO_BASE, MakePlan

ALL = Anonymizer(Anonymize())
TEXT = TaskSection(kind="causal-lm")
CLASSES = TaskSection(kind="classification", labels=["13800138000", "no"])
QUESTIONS = TaskSection(kind="question-answering")


def of(record: Record, section: TaskSection, anonymizer: Anonymizer = ALL) -> Record:
    return record_transform(anonymizer, section)(record)


def test_without_an_anonymizer_a_record_is_what_it_is() -> None:
    record = {"text": CANARY}
    assert record_transform(None, TEXT)(record) is record


def test_what_a_task_reads_is_replaced_but_not_its_class_and_nothing_else() -> None:
    record = {"text": f"mail {CANARY}", "label": "13800138000", "id": "13800138000", "other": CANARY}
    assert of(record, CLASSES) == record | {"text": "mail <EMAIL>"}
    assert record["text"] == f"mail {CANARY}"


def test_numbers_are_looked_at_as_templates_write_them() -> None:
    section = TaskSection(kind="causal-lm", template="{phone} {count} {share} {sure} {none}")
    record = {"phone": 13800138000, "count": 7, "share": 0.5, "sure": True, "none": None}
    assert of(record, section) == record | {"phone": "<PHONE>"}


def test_dialogues_keep_their_turns() -> None:
    turns = [
        {"role": "user", "content": f"I am {CANARY}"},
        {"role": "assistant", "content": "Hello", "more": CANARY},
        {"role": "user", "content": 5},
        "broken",
    ]
    made = of({"messages": turns}, TaskSection(kind="chat"))
    assert made["messages"] == [{"role": "user", "content": "I am <EMAIL>"}, *turns[1:]]


CONTEXT = f"Born 5 March 2024, Ana wrote from {CANARY} to lab@example.org about the cat."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Ana", "Ana"),
        (CANARY, "<EMAIL>"),
        ("lab@example.org", "<EMAIL>"),
        ("March 2024", "<DATE>"),
        (f"from {CANARY[:6]}", "from <EMAIL>"),
        ("bird77@example.com to", "<EMAIL> to"),
        ("the cat.", "the cat."),
        (CONTEXT, "Born <DATE>, Ana wrote from <EMAIL> to <EMAIL> about the cat."),
    ],
)
@pytest.mark.parametrize("shape", ["two lists", "nested", "without places"])
def test_an_answer_stays_where_it_is_in_its_context(answer: str, expected: str, shape: str) -> None:
    at = CONTEXT.index(answer)
    record: Record = {"question": f"Who is {CANARY}?", "context": CONTEXT}
    if shape == "nested":
        record["answers"] = {"text": [answer, "cat"], "answer_start": [at, CONTEXT.index("cat")]}
    else:
        record["answers"] = [answer, "cat"]
        record |= {"answer_starts": [at, CONTEXT.index("cat")]} if shape == "two lists" else {}
    made = of(record, QUESTIONS)
    answers, starts = made["answers"], made.get("answer_starts")
    if shape == "nested":
        answers, starts = answers["text"], answers["answer_start"]
    assert made["question"] == "Who is <EMAIL>?"
    assert made["context"] == "Born <DATE>, Ana wrote from <EMAIL> to <EMAIL> about the cat."
    assert answers == [expected, "cat"]
    assert [made["context"][start:][: len(one)] for one, start in zip(answers, starts, strict=True)] == answers
    # The second address of the context, not the first token that looks the same.
    assert starts[0] == made["context"].rindex(expected) if answer == "lab@example.org" else True


@pytest.mark.parametrize("answers", [{"answers": ["dog"], "answer_starts": [3]}, {"answers": ["dog"]}])
def test_an_answer_that_never_stood_in_its_context_stands_there_no_more(answers: Record) -> None:
    made = of({"question": "what?", "context": CONTEXT, **answers}, QUESTIONS)
    assert (made["answers"], made["answer_starts"]) == ([""], [-1])


@pytest.mark.parametrize(
    "answers", [None, "text", [1], {"text": "a"}, {"text": ["Ana"], "answer_start": ["3"]}, []]
)
def test_what_is_no_list_of_answers_is_left_to_the_task(answers: Any) -> None:
    made = of({"question": "what?", "context": CONTEXT, "answers": answers}, QUESTIONS)
    assert made["answers"] == answers
    assert CANARY not in made["context"]


def test_fields_are_those_of_the_records_under_whatever_name_a_plan_reads_them() -> None:
    anonymizer = Anonymizer(Anonymize(fields=["letter"]), {"text": "letter", "note": "remark"})
    record = {"letter": CANARY, "text": CANARY, "remark": CANARY, "note": CANARY}
    assert of(record, TEXT, anonymizer) == record | {"text": "<EMAIL>"}
    own = TaskSection(kind="causal-lm", template="{letter} {note}")
    assert of(record, own, anonymizer) == record | {"letter": "<EMAIL>"}


# Training


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.vault.records.recognizers, "looks", lambda settings: [Look("email", Broken())])


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_BASE)


def texts(
    records: list[Record], tokenizer: Any, anonymizer: Anonymizer, user: str | None = None
) -> list[list[str]]:
    """The tokens of each unit as texts again."""
    section = TaskSection(kind="causal-lm", max_length=200)
    encoded = encode(records, make_task(section, tokenizer), user, record_transform(anonymizer, section))
    return [[tokenizer.decode(one.input_ids, skip_special_tokens=True) for one in unit] for unit in encoded.units]


@pytest.mark.usefixtures("broken")
def test_a_record_that_cannot_be_anonymized_contributes_nothing_and_is_not_logged(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    records: list[Record] = [{"text": "one"}, {"text": "the 4711 canary"}, {"text": "two"}]
    assert texts(records, tokenizer, Anonymizer(Anonymize())) == [["one"], [], ["two"]]
    assert "RuntimeError" in caplog.text
    assert "4711" not in caplog.text
    assert "canary" not in caplog.text


def test_a_pattern_that_presidio_gives_up_lets_no_record_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_recognizer, "REGEX_TIMEOUT_SECONDS", 1e-6)
    with pytest.raises(UnusableError):
        of({"text": CANARY}, TEXT)


def test_a_text_that_libphonenumber_would_not_read_to_its_end_does_not_pass() -> None:
    assert of({"text": "12; " * 30_000 + "020 7946 0018"}, TEXT)["text"].endswith("12; <PHONE>")
    with pytest.raises(UnusableError):
        of({"text": "12; " * 33_000 + "020 7946 0018"}, TEXT)


RECORDS = st.lists(
    st.sampled_from(
        [
            {"text": f"write to {CANARY}"},
            {"text": "SSN 536904399"},
            {"text": "536904399"},
            {"text": "3月5日 passport"},
            {"text": "nothing"},
            {"text": None},
            {},
        ]
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(RECORDS, st.data())
def test_one_record_more_or_less_changes_no_other(records: list[Record], data: st.DataObject) -> None:
    read = AutoTokenizer.from_pretrained(DEMO_BASE)
    at = data.draw(st.integers(0, len(records) - 1))
    whole = texts(records, read, ALL)
    assert texts(records[:at] + records[at + 1 :], read, ALL) == whole[:at] + whole[at + 1 :]
    assert whole == [texts([record], read, ALL)[0] for record in records]


def test_users_are_told_apart_by_what_stands_in_the_records(tokenizer: Any) -> None:
    records: list[Record] = [{"text": one} for one in ("a@example.com", "b@example.com", "a@example.com")]
    assert texts(records, tokenizer, ALL, "text") == [["<EMAIL>", "<EMAIL>"], ["<EMAIL>"]]


@pytest.fixture
def path(tmp_path: Path, tiny_base: Path) -> Path:
    path = write_organization(tmp_path / "st-mary", tiny_base)
    write_records(path, [{"text": f"Bird {n}: {CANARY}, 13800138000"} for n in range(30)])
    return change(path, data={"anonymize": {}})


@pytest.mark.parametrize("on", [True, False])
def test_a_vault_trains_on_tokens_without_the_canary(
    path: Path, make_plan: MakePlan, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, on: bool
) -> None:
    if not on:
        path.write_text(path.read_text().replace("[data.anonymize]", ""))
    seen: list[str] = []
    once = client.vault.vault.take_steps

    def watched(*given: Any) -> None:
        units = given[2]
        seen.extend(tokenizer.decode(one.input_ids) for unit in units for one in unit)
        once(*given)

    monkeypatch.setattr(client.vault.vault, "take_steps", watched)
    open_vault(path).train(request_for(make_plan()))
    assert len(seen) == 30
    assert all(("<EMAIL>" in text and "<PHONE>" in text) is on for text in seen)
    assert all(("canary" in text) is not on for text in seen)

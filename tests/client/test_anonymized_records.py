"""Records without what names a person: fields, answers, users, failures; the vault and the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from presidio_analyzer import EntityRecognizer, pattern_recognizer
from transformers import AutoTokenizer

import client.recognizers
import client.vault
import sotto
from client.anonymize import Anonymizer, cover
from client.data import encode
from client.organization import Anonymize, Organization
from client.recognizers import Look
from client.start import serve_vault
from common.errors import InputError
from common.plan import Plan
from common.records import Record
from common.settings import template
from common.tasks import UnusableError, make_task
from common.tasks.section import TaskSection
from simulations.entropy import SeededEntropy
from tests.client.checking import change, look, not_ok, users, write_plan, write_records
from tests.client.vaults import open_vault, request_for, write_organization
from tests.conftest import DEMO_BASE, MakePlan

ALL = Anonymizer(Anonymize())
CANARY = "canary.bird77@example.com"
TEXT = TaskSection(kind="causal-lm")
CLASSES = TaskSection(kind="classification", labels=["13800138000", "no"])
QUESTIONS = TaskSection(kind="question-answering")


def of(record: Record, section: TaskSection, anonymizer: Anonymizer = ALL) -> Record:
    return cover(anonymizer, section)(record)


def test_without_an_anonymizer_a_record_is_what_it_is() -> None:
    record = {"text": CANARY}
    assert cover(None, TEXT)(record) is record


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


class Broken(EntityRecognizer):
    """Fails on a text with a word, and says the text."""

    def __init__(self) -> None:
        super().__init__(supported_entities=["BROKEN"])

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[Any]:
        if "4711" in text:
            raise RuntimeError(text)
        return []


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.recognizers, "looks", lambda settings: [Look("email", Broken())])


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_BASE)


def texts(
    records: list[Record], tokenizer: Any, anonymizer: Anonymizer, user: str | None = None
) -> list[list[str]]:
    """The tokens of each unit as texts again."""
    section = TaskSection(kind="causal-lm", max_length=200)
    encoded = encode(records, make_task(section, tokenizer), user, cover(anonymizer, section))
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
    once = client.vault.train

    def watched(*given: Any) -> None:
        units = given[3]
        seen.extend(tokenizer.decode(one.input_ids) for unit in units for one in unit)
        once(*given)

    monkeypatch.setattr(client.vault, "train", watched)
    open_vault(path).train(request_for(make_plan()))
    assert len(seen) == 30
    assert all(("<EMAIL>" in text and "<PHONE>" in text) is on for text in seen)
    assert all(("canary" in text) is not on for text in seen)


# At home


def test_a_field_that_no_record_has_stops_a_vault_before_it_answers(path: Path) -> None:
    change(path, data={"anonymize": {"fields": ["txet"]}})
    with pytest.raises(InputError, match=r"^data\.anonymize\.fields: none of the 30 records has 'txet'"):
        serve_vault(Organization.read(path), SeededEntropy(7), pytest.fail)


def test_check_says_whether_texts_are_anonymized(path: Path, make_plan: MakePlan) -> None:
    found = look(path, make_plan())
    assert not_ok(found) == {}
    assert found["records", "anonymization"].text.startswith("on, in every text that a plan reads: email, phone, ")
    change(path, data={"anonymize": {"fields": ["text"], "entities": ["iban"]}})
    assert look(path)["records", "anonymization"].text == "on, in the fields text: iban"


def test_check_says_where_they_are_not(tmp_path: Path, tiny_base: Path) -> None:
    found = look(write_organization(tmp_path / "st-mary", tiny_base))
    assert found["records", "anonymization"].text.startswith("off: ")


@pytest.mark.usefixtures("broken")
def test_check_counts_what_is_unusable_after_anonymization_and_names_its_line(
    path: Path, make_plan: MakePlan
) -> None:
    write_records(path, [{"text": f"record {n}" + " 4711" * (n == 6)} for n in range(30)])
    found = look(path, make_plan())
    assert not_ok(found) == {"records examples": "warning"}
    assert "1 of 30 records give nothing" in found["records", "examples"].text
    assert "1: it cannot be anonymized (line 7)" in found["records", "examples"].text


def test_check_looks_at_users_as_the_vault_does(path: Path, make_plan: MakePlan) -> None:
    users(path, [{"text": f"mail {n % 4}@example.com", "patient": f"p{n % 4}@example.com"} for n in range(12)])
    found = look(path)
    assert found["records", "users"].text.startswith("12 records of 4 users")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `sotto client anonymize`: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["sotto", "client", "anonymize", *map(str, arguments)])
        code = 0
        try:
            sotto.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def counts(output: str) -> dict[str, tuple[int, int]]:
    """Kind → how often, in how many records; of the table."""
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")
    ]
    return {kind: (int(found), int(records)) for kind, _, found, records in rows if int(found)}


def test_preview_counts_and_shows_what_is_replaced_and_writes_nothing(path: Path, cli: Run) -> None:
    write_records(
        path,
        [
            {"text": f"mail {CANARY} or li@example.com [bold]now[/bold]", "sure": True},
            {"text": "nothing"},
            {"text": "\x1b[31m电话13800138000", "phone": 13912345678},
        ],
    )
    before = sorted(path.parent.rglob("*"))
    code, output, _ = cli("--preview", path, "--examples", 1)
    assert code == 0
    assert counts(output) == {"email": (2, 1), "phone": (2, 1)}
    assert f"line 1, text: mail [{CANARY} → <EMAIL>] or li@example.com [bold]now" in output
    assert "line 3, text: \N{REPLACEMENT CHARACTER}[31m电话[13800138000 → <PHONE>]" in output
    assert "13912345678" not in output  # one example of each kind
    assert "st-mary: 2 of 3 records would be changed; " in output
    assert sorted(path.parent.rglob("*")) == before


def test_preview_of_a_plan_looks_at_what_it_reads(path: Path, cli: Run, make_plan: MakePlan) -> None:
    write_records(path, [{"letter": CANARY, "text": "old", "phone": 13912345678}])
    change(path, data={"fields": {"text": "letter"}})
    plan = write_plan(path.parent, make_plan())
    assert counts(cli("--preview", path, "--plan", plan)[1]) == {"email": (1, 1)}
    assert counts(cli("--preview", path)[1]) == {"email": (1, 1), "phone": (1, 1)}


@pytest.mark.usefixtures("broken")
def test_preview_counts_what_fails(path: Path, cli: Run) -> None:
    write_records(path, [{"text": "4711"}, {"text": "fine"}])
    code, output, _ = cli("--preview", path)
    assert code == 0
    assert "0 of 2 records would be changed; 1 cannot be anonymized and contribute nothing" in output


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"entities": ["mail"]}, "data.anonymize.entities.0 = 'mail': it should be 'email', 'phone', 'card'"),
        ({"entities": []}, "data.anonymize.entities = []"),
        ({"languages": ["de"]}, "data.anonymize.languages.0 = 'de': it should be 'en' or 'zh'"),
        ({"field": ["text"]}, "[data.anonymize] has no key 'field'; did you mean 'fields'?"),
        ({"fields": ["txet"]}, "data.anonymize.fields: none of the 30 records has 'txet'; they have: text"),
        ({"phone_regions": ["XX"]}, "data.anonymize.phone_regions = 'XX'"),
    ],
)
def test_bad_input_is_one_line(path: Path, cli: Run, keys: dict[str, Any], said: str) -> None:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    path.write_text(path.read_text().replace("[data.anonymize]\n", f"[data.anonymize]\n{lines}"))
    code, output, errors = cli("--preview", path)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert said in errors
    assert errors.count("\n") == 1


def test_what_is_not_asked_for_is_said(tmp_path: Path, tiny_base: Path, cli: Run) -> None:
    plain = write_organization(tmp_path / "plain", tiny_base)
    assert cli("--preview", plain)[::2] == (
        2,
        "error: data.anonymize is missing: organization.toml needs a table [data.anonymize]; it may be empty\n",
    )
    assert cli(plain)[0] == 2
    assert "give --preview" in cli(plain)[2]


def test_the_file_to_start_from_can_be_read_with_the_table_switched_on(tmp_path: Path) -> None:
    path = tmp_path / "organization.toml"
    path.write_text(template(Organization))
    assert Organization.read(path).data.anonymize is None
    keys = ("[data.anonymize]", "entities =", "languages =", "phone_regions =", "fields = [")
    lines = template(Organization).splitlines()
    on = [line.removeprefix("# ") if line.removeprefix("# ").startswith(keys) else line for line in lines]
    path.write_text("\n".join(on))
    assert Organization.read(path).data.anonymize == Anonymize(fields=["letter"])


def test_a_plan_knows_nothing_of_it() -> None:
    assert "anonymize" not in template(Plan)

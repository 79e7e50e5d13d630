"""The `[task]` section: which keys each kind has, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import InputError
from common.plan.task import TaskSection
from common.settings import validate


def complaint(**values: Any) -> str:
    with pytest.raises(InputError) as caught:
        validate(values, TaskSection, "task")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "translation"}, "kind = 'translation'"),
        ({"kind": "classification"}, 'labels is missing: kind = "classification" needs it'),
        ({"kind": "seq2seq", "template": "{a}"}, 'response is missing: kind = "seq2seq" needs it'),
        ({"kind": "seq2seq", "response": "{a}"}, 'template is missing: kind = "seq2seq" needs it'),
        ({"kind": "chat", "response": "{a}"}, "template and response belong together"),
        ({"labels": ["a", "b"]}, 'labels does not belong to kind = "causal-lm"'),
        ({"kind": "question-answering", "template": "{a}"}, "template does not belong to kind"),
        ({"kind": "chat", "pooling": "mean"}, "pooling does not belong to kind"),
        ({"kind": "classification", "labels": ["a"]}, "labels"),
        ({"kind": "classification", "labels": ["a", "b", "a"]}, "'a' occurs twice"),
        ({"kind": "classification", "labels": ["a", " b"]}, "' b' should not begin or end with a space"),
        ({"kind": "classification", "labels": ["a", ""]}, "labels"),
        ({"kind": "classification", "labels": ["a", 1]}, "labels"),
        ({"kind": "question-answering", "max_length": 64, "stride": 32}, "stride = 32 should be below half"),
        ({"response": "{a.b}"}, "plain name of a field"),
        ({"template": "{text}" * 5}, "contains {text} 5 times; at most 4 are allowed"),
        ({"template": "{a}" + "{text}" * 600}, "contains {text} 600 times; at most 4 are allowed"),
        ({"response": "".join(f"{{f{n}}}" for n in range(65))}, "contains 65 fields; at most 64 are allowed"),
    ],
)
def test_a_wrong_key_is_one_line(values: dict[str, Any], said: str) -> None:
    assert said in complaint(**values)


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({}, ["text"]),
        ({"template": "{a} {b}", "response": "{c} {a}"}, ["a", "b", "c"]),
        ({"kind": "chat"}, ["messages"]),
        ({"kind": "chat", "template": "{a}", "response": "{b}"}, ["a", "b"]),
        ({"kind": "classification", "labels": ["a", "b"]}, ["text", "label"]),
        ({"kind": "classification", "labels": ["a", "b"], "label_field": "c", "template": "{d}"}, ["d", "c"]),
        ({"kind": "question-answering"}, ["question", "context"]),
        ({"kind": "seq2seq", "template": "{a}", "response": "{b}"}, ["a", "b"]),
    ],
)
def test_the_fields_of_a_record_follow_from_the_section(values: dict[str, Any], fields: list[str]) -> None:
    assert validate(values, TaskSection, "task").fields == fields


def test_what_is_written_out_is_read_again() -> None:
    for values in ({}, {"kind": "chat"}, {"kind": "classification", "labels": ["a", "b"]}):
        section = validate(values, TaskSection, "task")
        assert validate(section.model_dump(exclude_none=True), TaskSection, "task") == section


def test_heads_have_an_output_for_each_label_or_for_both_ends_of_an_answer() -> None:
    assert TaskSection().head_outputs is None
    assert TaskSection(kind="classification", labels=["a", "b", "c"]).head_outputs == 3
    assert TaskSection(kind="question-answering").head_outputs == 2


def test_a_template_may_repeat_a_field_and_name_many() -> None:
    many = "".join(f"{{f{n}}}" for n in range(64))
    assert validate({"template": "{text}" * 4, "response": many}, TaskSection, "task").response == many

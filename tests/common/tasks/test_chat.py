"""Dialogues: only the assistant's turns are predicted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from common.errors import InputError
from common.plan.task import TaskSection
from common.results.generate import Sampling, generate
from common.tasks import Example, UnusableError, make_task

DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is my parcel?"},
    {"role": "assistant", "content": "It is on its way."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Good day"},
    {"role": "user", "content": "Bye"},
]
CHAT = TaskSection(kind="chat", max_length=120)


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_assistants_turns_are_the_labels_and_what_follows_the_last_is_left_out(tokenizer: Any) -> None:
    (example,) = make_task(CHAT, tokenizer).encode({"messages": DIALOGUE})
    told = [" It is on its way.\n", " Good day\n"]
    asked = ["<system> Be brief.\n<user> Where is my parcel?\n<assistant>", "<user> Thanks\n<assistant>"]
    whole = asked[0] + told[0] + asked[1] + told[1]
    assert example.input_ids == ids(tokenizer, whole)
    kept = tokenizer.decode([label for label in example.labels if label != -100])
    assert kept.split() == "".join(told).split()
    for token, label in zip(example.input_ids, example.labels, strict=True):
        assert label in (token, -100)


def test_templates_make_a_dialogue_of_two_turns(tokenizer: Any) -> None:
    own = TaskSection(kind="chat", max_length=64, template="{context} {prompt}", response="{response}")
    record = {"context": "Bank.", "prompt": "When is it open?", "response": "At ten", "more": 1}
    turns = [
        {"role": "user", "content": "Bank. When is it open?"},
        {"role": "assistant", "content": "At ten"},
    ]
    assert make_task(own, tokenizer).encode(record) == make_task(CHAT, tokenizer).encode({"messages": turns})


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (DIALOGUE[:2], "no turn of the assistant"),
        ([], "no turn of the assistant"),
        ("hello", "not a list of messages"),
        ([{"role": "assistant", "content": "  "}], "not a list of messages"),
        ([{"role": "robot", "content": "a"}], "not a list of messages"),
        ([{"role": "assistant"}], "not a list of messages"),
        ([{"role": "user", "content": "word " * 200}, DIALOGUE[2]], "no token to predict within max_length"),
    ],
)
def test_what_is_no_dialogue_is_unusable(tokenizer: Any, messages: Any, reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        make_task(CHAT, tokenizer).encode({"messages": messages})


def with_template(tokenizer: Any, template: str | None) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "has no chat template"),
        ("{{ messages | length }} {{ messages[-1]['content'] }}", "does not show where"),
        ("{{ raise_exception('never') }}", "does not show where"),
        ("always the same", "does not show where"),
    ],
    ids=["none", "rewrites", "refuses", "constant"],
)
def test_a_template_that_shows_no_turns_is_refused(tokenizer: Any, template: str | None, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        make_task(CHAT, with_template(tokenizer, template))


def test_a_template_that_takes_no_system_turn_makes_such_a_record_unusable(tokenizer: Any) -> None:
    strict = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + tokenizer.chat_template
    )
    task = make_task(CHAT, with_template(tokenizer, strict))
    with pytest.raises(UnusableError, match="does not accept its messages"):
        task.encode({"messages": DIALOGUE})
    assert isinstance(task.encode({"messages": DIALOGUE[1:]})[0], Example)


def test_an_answer_is_written_after_the_prompt_of_the_template(bases: dict[str, Path], tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(bases["decoder"])
    pieces: list[str] = []
    answer = generate(model, tokenizer, "Hello", Sampling(6), CHAT, pieces.append)
    plain = generate(model, tokenizer, "<user> Hello\n<assistant>", Sampling(6))
    begin = tokenizer.bos_token_id
    assert begin is not None
    assert "".join(pieces).strip() == answer
    assert isinstance(plain, str)
    stop = answer.split()[-1][:3]
    assert stop not in generate(model, tokenizer, "Hello", Sampling(6, stop=(stop,)), CHAT)


def test_a_dialogue_is_tokenized_only_as_far_as_it_is_used(tokenizer: Any) -> None:
    """A turn takes as long as all turns before it: ten thousand turns would take hours."""
    asked = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def apply_chat_template(self, *arguments: Any, **options: Any) -> Any:
            asked.append(1)
            return tokenizer.apply_chat_template(*arguments, **options)

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    task = make_task(CHAT, Counting())
    asked.clear()
    (example,) = task.encode({"messages": turns * 10_000})
    assert len(example.input_ids) == CHAT.max_length
    assert len(asked) <= 2 * CHAT.max_length
    (few,) = task.encode({"messages": turns * CHAT.max_length})
    assert example == few

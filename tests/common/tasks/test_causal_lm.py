"""Causal language modelling: the loss of each example depends on it alone; unusable records."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import InputError
from common.plan.task import TaskSection
from common.tasks import Example, UnusableError, make_task, padded_length, predictions_on
from common.tasks.causal_lm import CausalLM
from tests.conftest import DEMO_BASE

TEXTS = [
    "Where is my parcel?",
    "Hello",
    "The clinic is open from nine to five on weekdays, and closed on public holidays.",
    "I would like to change my appointment, please. Is Tuesday at ten still free?",
    "a b c d e f g",
    "Your order was shipped yesterday.",
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_BASE)


@pytest.fixture(scope="module")
def model() -> Any:
    """A trained model, so that every token of the context matters."""
    return AutoModelForCausalLM.from_pretrained(DEMO_BASE, dtype=torch.float32).eval()


def task(tokenizer: Any, template: str = "{text}", max_length: int = 64) -> CausalLM:
    return CausalLM(TaskSection(template=template, max_length=max_length), tokenizer)


def one(examples: tuple[Example, ...]) -> Example:
    (example,) = examples
    return example


def encoded(tokenizer: Any, texts: list[str] = TEXTS) -> list[Example]:
    return [one(task(tokenizer).encode({"text": text})) for text in texts]


def token_losses(model: Any, example: Example) -> list[float]:
    """The losses of one example, token by token, without padding or mask."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0].double()
    losses = []
    for position in range(1, len(example)):
        label = example.labels[position]
        if label != -100:
            losses.append(-float(torch.log_softmax(logits[position - 1], dim=0)[label]))
    return losses


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# Losses


def test_the_loss_of_an_example_is_the_mean_over_its_own_tokens(model: Any, tokenizer: Any) -> None:
    examples = encoded(tokenizer)
    assert len({len(example) for example in examples}) > 3
    with torch.no_grad():
        losses = task(tokenizer).losses(model, examples, 48)
    assert losses.tolist() == pytest.approx([mean(token_losses(model, example)) for example in examples], abs=1e-5)
    # The model predicts some of these texts well and others badly, so that mixing them would be detected.
    assert max(losses) - min(losses) > 0.5


def test_positions_without_a_label_do_not_count(model: Any, tokenizer: Any) -> None:
    first, second = encoded(tokenizer)[2:4]
    half = len(first) // 2
    answer_only = Example(first.input_ids, (-100,) * half + first.labels[half:])
    assert len(token_losses(model, answer_only)) == len(first) - half
    with torch.no_grad():
        losses = task(tokenizer).losses(model, [answer_only, second], 48)
    assert losses[0].item() == pytest.approx(mean(token_losses(model, answer_only)), abs=1e-5)


@settings(deadline=None, max_examples=15)
@given(companions=st.lists(st.sampled_from(TEXTS), max_size=4), place=st.integers(0, 4))
def test_the_companions_of_an_example_do_not_change_its_loss(
    model: Any, tokenizer: Any, companions: list[str], place: int
) -> None:
    (example,) = encoded(tokenizer, ["My parcel is late."])
    batch = encoded(tokenizer, companions)
    batch.insert(place, example)
    with torch.no_grad():
        loss = task(tokenizer).losses(model, batch, 48)[batch.index(example)]
    assert loss.item() == pytest.approx(mean(token_losses(model, example)), abs=1e-5)


@pytest.mark.parametrize("more", [0, 1, 16, 40])
def test_padding_does_not_change_a_loss(model: Any, tokenizer: Any, more: int) -> None:
    (example,) = encoded(tokenizer, ["My parcel is late."])
    with torch.no_grad():
        loss = task(tokenizer).losses(model, [example], len(example) + more)
    assert loss.tolist() == pytest.approx([mean(token_losses(model, example))], abs=1e-5)


def test_the_padded_length_is_the_next_multiple_of_sixteen_above() -> None:
    assert [padded_length(length) for length in (1, 2, 15, 16, 17, 31, 32, 63)] == [16, 16, 16, 32, 32, 32, 48, 64]


def test_the_gradient_of_one_loss_does_not_reach_the_other_examples(model: Any, tokenizer: Any) -> None:
    def gradient(batch: list[Example]) -> torch.Tensor:
        weight = model.get_input_embeddings().weight
        loss = task(tokenizer).losses(model, batch, 48)[0]
        return torch.autograd.grad(loss, weight)[0]

    first, *others = encoded(tokenizer)
    torch.testing.assert_close(gradient([first, *others]), gradient([first]), atol=1e-5, rtol=1e-4)


def test_a_tokenizer_without_a_padding_token_gives_the_same(model: Any, tokenizer: Any) -> None:
    without = copy.deepcopy(tokenizer)
    without.pad_token = None
    examples = encoded(tokenizer)
    with torch.no_grad():
        assert task(without).losses(model, examples, 48).tolist() == pytest.approx(
            task(tokenizer).losses(model, examples, 48).tolist(), abs=1e-5
        )


def test_evaluation_is_over_all_tokens_of_all_batches(model: Any, tokenizer: Any) -> None:
    texts = [f"{text} {number}" for number in range(6) for text in TEXTS]
    examples = encoded(tokenizer, texts)
    assert len(examples) == 36
    losses = [loss for example in examples for loss in token_losses(model, example)]
    right = 0
    for example in examples:
        with torch.no_grad():
            best = model(input_ids=torch.tensor([example.input_ids])).logits[0].argmax(-1).tolist()
        right += sum(best[position - 1] == example.labels[position] for position in range(1, len(example)))
    records = [{"text": text} for text in texts]
    made = predictions_on(task(tokenizer), model, [*records, {"text": ""}, {}])
    metrics = task(tokenizer).metrics(made)
    assert (metrics["tokens"], metrics["records"]) == (len(losses), 36)
    assert metrics["loss"] == pytest.approx(mean(losses), abs=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(mean(losses)), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(right / len(losses), abs=1e-9)
    assert metrics["bits_per_byte"] == pytest.approx(sum(losses) / math.log(2) / sum(map(len, texts)), rel=1e-5)
    assert 0 < right < len(losses)
    predictions = [made for made in task(tokenizer).predict(model, records) if made is not None]
    assert task(tokenizer).score(predictions) == pytest.approx(metrics["perplexity"], rel=1e-12)


# Records


def test_a_text_is_begun_and_ended_as_the_base_model_expects(tokenizer: Any) -> None:
    by_hand = Tokenizer.from_file(str(DEMO_BASE / "tokenizer.json")).encode(TEXTS[2], add_special_tokens=False).ids
    example = one(task(tokenizer).encode({"text": f"  {TEXTS[2]}\n"}))
    assert example == Example((1, *by_hand, 2), (1, *by_hand, 2))


def test_longer_texts_are_truncated_and_shorter_texts_are_not(tokenizer: Any) -> None:
    whole = one(task(tokenizer).encode({"text": TEXTS[2]}))
    for length in (2, 3, len(whole) - 1, len(whole), len(whole) + 1):
        cut = one(task(tokenizer, max_length=length).encode({"text": TEXTS[2]}))
        assert cut.input_ids == whole.input_ids[:length]
        assert cut.labels == cut.input_ids


def test_fields_are_filled_in_and_braces_in_a_record_are_text(tokenizer: Any) -> None:
    filled = task(tokenizer, "Q: {question} A: {answer}").encode(
        {"question": "{answer}", "answer": 7, "more": [1]}
    )
    plain = task(tokenizer).encode({"text": "Q: {answer} A: 7"})
    assert len(filled) == 1
    assert filled == plain


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"question": "a"},
        {"answer": "a"},
        {"question": "a", "answer": None},
        {"question": "a", "answer": ["b"]},
        {"question": {"text": "a"}, "answer": "b"},
        {"Question": "a", "answer": "b"},
        {"question": "a", "answer": 10**5000},
    ],
    ids=["empty", "no answer", "no question", "null", "list", "table", "another case", "endless integer"],
)
def test_a_record_that_lacks_a_field_is_no_example(tokenizer: Any, record: dict[str, Any]) -> None:
    with pytest.raises(UnusableError):
        task(tokenizer, "{question} {answer}").encode(record)


@pytest.mark.parametrize("text", ["", " ", "\n\t \u00a0\u2003"])
def test_an_empty_text_is_no_example(tokenizer: Any, text: str) -> None:
    with pytest.raises(UnusableError, match="empty"):
        task(tokenizer).encode({"text": text})


@pytest.mark.parametrize(
    "text", ["\ud800", "a\udfff b", "\x00", "\ufffe\uffff", "👩‍⚕️" * 50, "x" * 200_000, "é " * 50_000]
)
def test_an_unusual_text_is_an_example_like_any_other(tokenizer: Any, text: str) -> None:
    example = one(task(tokenizer).encode({"text": text}))
    assert 2 <= len(example) <= 64
    assert all(0 <= token < len(tokenizer) for token in example.input_ids)


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(ANY_TEXT, inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=200)
@given(
    record=st.dictionaries(ANY_TEXT, JSON, max_size=2)
    | st.fixed_dictionaries({"text": JSON}, optional={"answer": JSON})
)
def test_a_record_is_an_example_or_unusable(tokenizer: Any, record: dict[str, Any]) -> None:
    for template in ("{text}", "{text}{answer}"):
        with contextlib.suppress(UnusableError):
            example = one(task(tokenizer, template, 8).encode(record))
            assert 2 <= len(example) <= 8
            assert all(0 <= token < len(tokenizer) for token in example.input_ids)
            assert len(example.labels) == len(example.input_ids)


# Responses


def responding(tokenizer: Any, max_length: int = 64) -> CausalLM:
    section = TaskSection(template="{prompt}", response=" {response}", max_length=max_length)
    return CausalLM(section, tokenizer)


def test_with_a_response_the_loss_is_taken_on_it_and_on_the_end_alone(tokenizer: Any) -> None:
    def ids(text: str) -> tuple[int, ...]:
        plain = Tokenizer.from_file(str(DEMO_BASE / "tokenizer.json"))
        return tuple(plain.encode(text, add_special_tokens=False).ids)

    example = one(responding(tokenizer).encode({"prompt": TEXTS[0], "response": TEXTS[2]}))
    asked, told = (1, *ids(TEXTS[0])), (*ids(" " + TEXTS[2]), 2)
    assert example == Example(asked + told, (-100,) * len(asked) + told)


def test_bits_per_byte_are_those_of_the_response(model: Any, tokenizer: Any) -> None:
    record = {"prompt": TEXTS[0], "response": "Über den Preis: 5 €"}
    losses = token_losses(model, one(responding(tokenizer).encode(record)))
    size = len(" Über den Preis: 5 €".encode())
    metrics = responding(tokenizer).metrics(predictions_on(responding(tokenizer), model, [record]))
    assert metrics["bits_per_byte"] == pytest.approx(sum(losses) / math.log(2) / size, rel=1e-5)


def test_a_prompt_that_leaves_no_room_for_its_response_is_unusable(tokenizer: Any) -> None:
    with pytest.raises(UnusableError, match="no token to predict within max_length"):
        responding(tokenizer, 5).encode({"prompt": TEXTS[2], "response": "yes"})


# Synthetic examples, and the choice of a task


@pytest.mark.parametrize("max_length", [2, 5, 64])
def test_synthetic_examples_fit_and_differ_in_length(tokenizer: Any, max_length: int) -> None:
    examples = task(tokenizer, max_length=max_length).synthetic(3)
    assert len(examples) == 3
    assert all(2 <= len(example) <= max_length for example in examples)
    assert all(0 <= token < len(tokenizer) for example in examples for token in example.input_ids)
    assert len({len(example) for example in examples}) > 1 or max_length == 2


def test_a_plan_makes_the_task_it_names(tokenizer: Any) -> None:
    made = make_task(TaskSection(template="{answer}", max_length=5), tokenizer)
    assert len(one(made.encode({"answer": TEXTS[2]}))) == 5
    with pytest.raises(UnusableError, match="'answer' is missing"):
        made.encode({"text": TEXTS[2]})


def test_a_tokenizer_that_cannot_end_a_text_is_refused(tokenizer: Any) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(InputError, match="end-of-text"):
        make_task(TaskSection(), endless)

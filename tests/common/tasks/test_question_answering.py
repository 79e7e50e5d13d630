"""Question answering: windows, ends of answers, and the prediction from scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from common.model.model import LoraModel
from common.plan.task import TaskSection
from common.tasks import UnusableError, make_task, predictions_on
from common.tasks.scores import answer_metrics
from tests.common.tasks.bases import WORDS, randomized, record
from tests.common.tasks.conftest import MakeTaskPlan

LONG = " ".join(f"{WORDS[at % 12]} {at}" for at in range(60))


def task(tokenizer: Any, **options: Any) -> Any:
    values = {"max_length": 24, "stride": 8, **options}
    return make_task(TaskSection(kind="question-answering", **values), tokenizer)


def asked(answer: str, context: str = LONG, **more: Any) -> dict[str, Any]:
    start = context.find(answer)
    return {"question": "Which?", "context": context, "answers": [answer], "answer_starts": [start], **more}


@pytest.mark.parametrize("answer", ["parcel 0", "bank 15", "41", "number 57"])
def test_each_window_that_holds_the_whole_answer_points_at_it_and_the_others_nowhere(
    tokenizer: Any, answer: str
) -> None:
    examples = task(tokenizer).encode(asked(answer))
    assert len(examples) > 10
    found = 0
    for example in examples:
        assert len(example.input_ids) <= 24
        first, last = example.labels
        text = tokenizer.decode(example.input_ids[example.second :])
        if example.labels == (0, 0):
            assert answer not in text
        else:
            found += 1
            assert example.second <= first <= last < len(example.input_ids)
            assert tokenizer.decode(example.input_ids[first : last + 1]).strip() == answer
    assert found >= 1


def test_windows_cover_the_whole_context_and_share_as_many_tokens_as_the_stride(tokenizer: Any) -> None:
    examples = task(tokenizer).encode(asked("parcel 0"))
    parts = [example.input_ids[example.second :] for example in examples]
    whole = tuple(tokenizer(LONG, add_special_tokens=False)["input_ids"])
    joined = parts[0]
    for part in parts[1:]:
        assert joined[-8:] == part[:8]
        joined += part[8:]
    assert joined == whole


def test_squads_own_form_and_a_missing_start_give_the_same(tokenizer: Any) -> None:
    usual = task(tokenizer).encode(asked("bank 15"))
    nested = asked("bank 15", answers={"text": ["bank 15"], "answer_start": [LONG.find("bank 15")]})
    del nested["answer_starts"]
    assert task(tokenizer).encode(nested) == usual
    without = asked("bank 15")
    del without["answer_starts"]
    assert task(tokenizer).encode(without) == usual


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": ["bank 16"], "answer_starts": [3]}, "is not in its context"),
        ({"answers": ["unheard"], "answer_starts": None}, "is not in its context"),
        ({"answers": [], "answer_starts": []}, "no answer"),
        ({"answers": ["a", "b"], "answer_starts": [1]}, "do not match"),
        ({"answers": ["parcel"], "answer_starts": ["0"]}, "do not match"),
        ({"answers": "parcel"}, "not a list of texts"),
        ({"question": "why " * 40}, "leaves no room"),
        ({"answers": [LONG[:90]], "answer_starts": [0]}, "longer than the overlap of windows"),
        ({"context": "  "}, "'context' is missing"),
    ],
)
def test_what_is_no_question_with_an_answer_is_unusable(
    tokenizer: Any, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnusableError, match=reason):
        task(tokenizer).encode({**asked("parcel 0"), **change})


def test_where_a_plan_says_so_a_question_may_have_no_answer(tokenizer: Any) -> None:
    examples = task(tokenizer, no_answer=True).encode({**asked("parcel 0"), "answers": [], "answer_starts": []})
    assert {example.labels for example in examples} == {(0, 0)}


@pytest.mark.parametrize("no_answer", [False, True])
@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_the_answer_is_the_likeliest_of_all_spans_of_all_windows(
    task_plan: MakeTaskPlan, base: str, no_answer: bool
) -> None:
    plan = task_plan("question-answering", base, task={"no_answer": no_answer})
    model = randomized(plan, 0.5, seed=3)
    made = make_task(plan.task, model.tokenizer)
    records = [{**record(number), "context": " ".join([record(number)["context"]] * 4)} for number in range(8)]
    for one, prediction in zip(records, made.predict(model.module, records), strict=True):
        best, nowhere = (-1e9, ""), 1e9
        encoded = model.tokenizer(
            one["question"], one["context"], truncation="only_second", max_length=24, stride=8,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        for place, ids in enumerate(encoded["input_ids"]):
            with torch.no_grad():
                inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long()}
                scores = model.module(**inputs)[0].double().log_softmax(0)
            nowhere = min(nowhere, float(scores[0].sum()))
            context = [at for at, text in enumerate(encoded.sequence_ids(place)) if text == 1]
            for first in context:
                for last in context:
                    if first <= last < first + 30:
                        begin, end = (
                            encoded["offset_mapping"][place][first][0],
                            encoded["offset_mapping"][place][last][1],
                        )
                        score = float(scores[first, 0] + scores[last, 1])
                        best = max(best, (score, one["context"][begin:end]))
        expected = "" if no_answer and nowhere > best[0] else best[1]
        assert prediction.text == expected
        assert prediction.answers == tuple(one["answers"])


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_a_loss_is_the_mean_of_its_ends_with_tokens_vectors_of_length_one(
    task_plan: MakeTaskPlan, base: str
) -> None:
    plan = task_plan("question-answering", base)
    model = randomized(plan, 0.2, seed=1)
    task = make_task(plan.task, model.tokenizer)
    examples = [example for place in range(4) for example in task.encode(record(place))]
    for example, loss in zip(examples, task.losses(model.module, examples, 48).tolist(), strict=True):
        # Without padding or mask, token by token.
        hidden = model.peft(input_ids=torch.tensor([example.input_ids])).last_hidden_state[0]
        scores = [(model.module.head.weight @ (vector / vector.norm())).tolist() for vector in hidden]
        ends = [
            math.log(sum(math.exp(score[end]) for score in scores)) - scores[example.labels[end]][end]
            for end in (0, 1)
        ]
        assert loss == pytest.approx(sum(ends) / 2, abs=1e-5)


def test_exact_match_and_f1_by_hand() -> None:
    metrics = answer_metrics(
        [
            ("The Eiffel Tower!", ["Eiffel tower", "a tower"]),  # exact
            ("in Paris, France", ["Paris"]),  # one of three words, one of one: F1 = 2·1/(3+1)
            ("", []),  # rightly none
            ("Rome", []),  # wrongly one
            ("北京大学", ["北京"]),  # two of four characters, two of two: 2·2/(4+2)
            ("no", ["yes"]),
        ]
    )
    assert metrics["exact_match"] == pytest.approx(2 / 6)
    assert metrics["f1"] == pytest.approx((1 + 0.5 + 1 + 0 + 2 / 3 + 0) / 6)


def test_evaluation_leaves_out_what_has_no_answer_unless_the_plan_has_such(task_plan: MakeTaskPlan) -> None:
    none = {**record(1), "answers": [], "answer_starts": []}
    for no_answer, count in ((False, 1), (True, 2)):
        plan = task_plan("question-answering", "encoder", task={"no_answer": no_answer})
        model = LoraModel(plan.model.base, plan)
        task = make_task(plan.task, model.tokenizer)
        metrics = task.metrics(predictions_on(task, model.module, [record(2), none]))
        assert metrics["records"] == count


def test_a_context_of_too_many_windows_is_not_used(tokenizer: Any) -> None:
    """A window holds 24 tokens less the question's, and repeats 8 of the window before."""
    record = asked("parcel 0", "parcel 0 " + "bank " * 20_000)
    with pytest.raises(UnusableError, match="more than 1024 windows"):
        task(tokenizer).encode(record)
    fewer = asked("parcel 0", "parcel 0 " + "bank " * 8_000)
    assert 600 < len(task(tokenizer).encode(fewer)) <= 1024


def test_a_text_that_is_too_long_is_not_tokenized(tokenizer: Any) -> None:
    for field in ("question", "context"):
        with pytest.raises(UnusableError, match="more than 1048576 characters"):
            task(tokenizer).encode({**asked("parcel 0"), field: " " * 2**20 + "x"})

"""Sequence to sequence: the loss of each response alone, and the generated text."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sacrebleu
import torch

from common.model.model import LoraModel
from common.results.generate import Sampling, generate
from common.tasks import make_task, predictions_on
from common.tasks.scores import text_metrics
from tests.common.tasks.bases import record, section
from tests.common.tasks.conftest import MakeTaskPlan


@pytest.fixture
def made(task_plan: MakeTaskPlan) -> tuple[Any, LoraModel]:
    plan = task_plan("seq2seq", "both")
    model = LoraModel(plan.model.base, plan)
    return make_task(plan.task, model.tokenizer), model


def alone(model: Any, source: tuple[int, ...], target: tuple[int, ...], start: int) -> list[float]:
    """The losses of a response's tokens, one after the other, without padding."""
    losses = []
    for position, token in enumerate(target):
        written = torch.tensor([[start, *target[:position]]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=written).logits
        losses.append(-float(logits[0, -1].double().log_softmax(0)[token]))
    return losses


def test_a_loss_is_the_mean_over_the_tokens_of_its_own_response(made: tuple[Any, LoraModel]) -> None:
    task, model = made
    examples = [task.encode(record(number))[0] for number in range(5)]
    assert len({len(example.labels) for example in examples}) > 2
    with torch.no_grad():
        losses = task.losses(model.module, examples, 32).tolist()
    for example, loss in zip(examples, losses, strict=True):
        every = alone(model.module, example.input_ids, example.labels, model.peft.config.decoder_start_token_id)
        assert loss == pytest.approx(sum(every) / len(every), abs=1e-5)


def test_evaluation_writes_and_scores(made: tuple[Any, LoraModel]) -> None:
    task, model = made
    records = [record(number) for number in range(5)]
    predictions = task.predict(model.module, [*records, {}])
    assert predictions.pop() is None
    losses = []
    for one, prediction in zip(records, predictions, strict=True):
        (example,) = task.encode(one)
        losses += alone(model.module, example.input_ids, example.labels, model.peft.config.decoder_start_token_id)
        assert prediction.reference == one["text"]
        written = generate(model.module, model.tokenizer, one["question"], Sampling(24), section("seq2seq"))
        assert prediction.text == written
    metrics = task.metrics(predictions_on(task, model.module, records))
    assert metrics["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(task.score(predictions))
    texts, references = [one.text for one in predictions], [one.reference for one in predictions]
    assert metrics["chrf"] == pytest.approx(sacrebleu.CHRF().corpus_score(texts, [references]).score)


def test_rouge_l_by_hand_and_the_ends_of_the_scales() -> None:
    # The longest common subsequence of "a b c d" and "a c e" is "a c": P = 2/4, R = 2/3.
    assert text_metrics(["a b c d"], ["a c e"])["rouge_l"] == pytest.approx(
        100 * 2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3)
    )
    same = text_metrics(["the parcel is on its way"], ["the parcel is on its way"])
    assert [round(value, 6) for value in same.values()] == [100, 100, 100]
    assert set(text_metrics(["x y z w"], ["parcel"]).values()) == {0}

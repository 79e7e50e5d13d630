"""Classification: the vector of a text, its label, and the metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from client.vault.training.verification import verify_training
from common.errors import InputError
from common.model.base import load_base
from common.model.heads import HeadedModel
from common.model.model import LoraModel, with_head
from common.plan.task import TaskSection
from common.results.evaluate import evaluate
from common.tasks import UnusableError, make_task
from common.tasks.class_report import class_report
from common.tasks.classification import ClassPrediction
from common.tasks.scores import class_metrics
from server.run.result import load_result, merge_result
from simulations.simulate import simulate
from tests.common.tasks.bases import LABELS, randomized, record, section
from tests.common.tasks.conftest import MakeTaskPlan

TEXTS = ["parcel", "the bank opens late", "doctor " * 9]


@pytest.mark.parametrize(
    ("base", "pooling"),
    [("encoder", "mean"), ("encoder", "first"), ("encoder", None), ("decoder", "last"), ("decoder", None)],
)
def test_a_loss_is_that_of_the_text_alone_with_its_pooled_vector(
    task_plan: MakeTaskPlan, base: str, pooling: str | None
) -> None:
    plan = task_plan("classification", base, task={"pooling": pooling} if pooling else {})
    model = randomized(plan, 0.2, seed=1)
    task = make_task(plan.task, model.tokenizer)
    examples = [task.encode({"text": text, "label": "perhaps"})[0] for text in TEXTS]
    losses = task.losses(model.module, examples, 48).tolist()
    usual = {"encoder": "mean", "decoder": "last"}[base]
    for example, loss in zip(examples, losses, strict=True):
        # Without padding or mask, number by number.
        hidden = model.peft(input_ids=torch.tensor([example.input_ids])).last_hidden_state[0]
        vector = {"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}[pooling or usual]
        scores = model.module.head.weight @ (vector / vector.norm())
        expected = math.log(sum(math.exp(score) for score in scores.tolist())) - scores.tolist()[2]
        assert loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_the_pooled_vectors_of_the_last_layers_stand_side_by_side(task_plan: MakeTaskPlan, base: str) -> None:
    model = randomized(task_plan("classification", base, task={"pooling_layers": 2}), 0.2, seed=1)
    task = make_task(section("classification"), model.tokenizer)
    examples = [task.encode({"text": text, "label": "perhaps"})[0] for text in TEXTS]
    losses = task.losses(model.module, examples, 48).tolist()
    assert model.shapes["head.weight"] == (3, 64)
    for example, loss in zip(examples, losses, strict=True):
        ids = torch.tensor([example.input_ids])
        hidden = model.peft(input_ids=ids, output_hidden_states=True).hidden_states
        vectors = [layer[0].mean(0) if base == "encoder" else layer[0][-1] for layer in hidden[1:]]
        vector = torch.cat([one / one.norm() for one in vectors]) / math.sqrt(2)
        assert float(vector.norm()) == pytest.approx(1)
        scores = (model.module.head.weight @ vector).tolist()
        expected = math.log(sum(math.exp(score) for score in scores)) - scores[2]
        assert loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_gradients_under_pooled_layers_are_those_of_a_loop(task_plan: MakeTaskPlan, base: str) -> None:
    plan = task_plan("classification", base, task={"pooling_layers": 2})
    model = randomized(plan, 0.2, seed=1)
    parameters = model.trained_parameters()
    assert len(parameters) > 1
    verify_training(model.module, parameters, make_task(plan.task, model.tokenizer), 1e-5)


def test_a_model_that_pools_layers_is_merged(task_plan: MakeTaskPlan, tmp_path: Path) -> None:
    records = [record(number) for number in range(40)]
    public = tmp_path / "public.jsonl"
    public.write_text("".join(json.dumps(one) + "\n" for one in records[:12]))
    task = {"pooling_layers": 2}
    plan = task_plan("classification", "encoder", task=task, evaluation={"data": str(public)})
    result = simulate(plan, {"a": records[:20], "b": records[20:]}, tmp_path / "run")
    merge_result(tmp_path / "run", tmp_path / "merged")
    model, tokenizer, own = load_result(tmp_path / "merged")
    assert own is not None
    found, _ = evaluate(model, tokenizer, own.task, public)
    assert found.metrics["loss"] == pytest.approx(result.directory.rounds()[-1].metrics["loss"], rel=1e-4)
    assert "the last 2 of" in (tmp_path / "merged" / "README.md").read_text()


def test_more_layers_than_the_base_has_are_refused(task_plan: MakeTaskPlan) -> None:
    plan = task_plan("classification", "encoder", task={"pooling_layers": 3})
    with pytest.raises(InputError, match=r"pooling_layers = 3: it should be at most 2"):
        LoraModel(plan.model.base, plan)


def test_layers_are_pooled_for_classes_only() -> None:
    with pytest.raises(ValueError, match="pooling_layers does not belong"):
        TaskSection(kind="question-answering", pooling_layers=2)


@pytest.mark.parametrize("layers", [1, 2])
def test_vectors_that_are_kept_give_the_same_losses(task_plan: MakeTaskPlan, layers: int) -> None:
    plan = task_plan("classification", "encoder", task={"pooling_layers": layers})
    model = randomized(plan, 0.2, seed=1)
    task: Any = make_task(plan.task, model.tokenizer)
    examples = [task.encode(record(number))[0] for number in range(5)]
    frozen = task.frozen(model.module, examples, 48)
    assert [example.input_ids for example in frozen] == [()] * 5
    expected = task.losses(model.module, examples, 48)
    torch.testing.assert_close(task.losses(model.module, frozen, 16), expected, atol=1e-6, rtol=1e-6)


def test_any_other_label_is_the_other_class_where_the_plan_names_one(tokenizer: Any) -> None:
    plain = TaskSection(kind="classification", labels=["film", "rest"])
    rest = TaskSection(kind="classification", labels=["film", "rest"], other_label="rest")
    records = [{"text": "a", "label": label} for label in ("film", "rest", "sport", " film ", 7, "", 10**5000)]
    assert [make_task(rest, tokenizer).encode(one)[0].labels for one in records] == [
        (0,), (1,), (1,), (0,), (1,), (1,), (1,),
    ]  # fmt: skip
    for one in (records[2], records[6]):
        with pytest.raises(UnusableError, match="not one of the plan's labels"):
            make_task(plain, tokenizer).encode(one)
    for label in (None, True, ["sport"]):
        with pytest.raises(UnusableError, match="is missing, or is not a text or integer"):
            make_task(rest, tokenizer).encode({"text": "a", "label": label})


def test_the_other_class_is_one_of_the_plan() -> None:
    with pytest.raises(ValueError, match="other_label = 'all' should be one of labels"):
        TaskSection(kind="classification", labels=["film", "rest"], other_label="all")


def test_a_label_is_a_text_or_an_integer_of_the_plan(tokenizer: Any) -> None:
    numbers = make_task(TaskSection(kind="classification", labels=["0", "1", "12"]), tokenizer)
    assert [numbers.encode({"text": "a", "label": label})[0].labels for label in (0, "1", " 12 ", 12)] == [
        (0,),
        (1,),
        (2,),
        (2,),
    ]
    for label in (2, "zero", 1.0, True, None, "", [0]):
        with pytest.raises(UnusableError, match="'label'"):
            numbers.encode({"text": "a", "label": label})


def test_a_long_text_is_cut_and_the_field_of_the_label_can_be_another(tokenizer: Any) -> None:
    own = TaskSection(kind="classification", max_length=5, labels=LABELS, label_field="class", template="{a} {b}")
    (example,) = make_task(own, tokenizer).encode({"a": "parcel clinic", "b": "order " * 20, "class": "yes"})
    assert len(example.input_ids) == 5
    assert example.labels == (1,)


def test_of_predictions_each_record_has_its_own(task_plan: MakeTaskPlan) -> None:
    plan = task_plan("classification", "encoder")
    model = randomized(plan, 0.2, seed=1)
    task = make_task(plan.task, model.tokenizer)
    records = [record(number) for number in range(40)]
    records[7] = {"text": "no label"}
    predictions = task.predict(model.module, records)
    assert predictions[7] is None
    for one, prediction in zip(records, predictions, strict=True):
        if prediction is not None:
            (alone,) = task.predict(model.module, [one])
            assert prediction.label == LABELS.index(one["label"])
            assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
            assert sum(prediction.probabilities) == pytest.approx(1)


def predictions(labels: list[int], probabilities: list[list[float]]) -> list[ClassPrediction]:
    return [ClassPrediction(label, tuple(row)) for label, row in zip(labels, probabilities, strict=True)]


def test_metrics_of_classes_by_hand(tokenizer: Any) -> None:
    labels = [0, 0, 1, 1, 2]
    chances = [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]
    task = make_task(section("classification"), tokenizer)
    metrics = task.metrics(predictions(labels, chances))
    # Predicted: 0 1 1 1 0. "no": recall 1 of 2, precision 1 of 2; "yes": 2 of 2, 2 of 3; "perhaps": never.
    assert metrics["accuracy"] == task.score(predictions(labels, chances)) == 3 / 5
    assert (metrics["precision[no]"], metrics["recall[no]"], metrics["f1[no]"]) == (0.5, 0.5, 0.5)
    assert metrics["f1[yes]"] == pytest.approx(0.8)
    assert metrics["f1[perhaps]"] == 0
    assert metrics["macro_f1"] == pytest.approx((0.5 + 0.8 + 0) / 3)
    right = [0.7, 0.3, 0.8, 0.5, 0.1]
    assert metrics["loss"] == pytest.approx(-sum(map(math.log, right)) / 5)
    # Pairs of one of the class and one of another that are in the right order, a tie is half: by class.
    areas = []
    for place in range(3):
        own = [row[place] for row, label in zip(chances, labels, strict=True) if label == place]
        rest = [row[place] for row, label in zip(chances, labels, strict=True) if label != place]
        won = [(a > b) + (a == b) / 2 for a in own for b in rest]
        areas.append(sum(won) / len(won))
    assert metrics["roc_auc"] == pytest.approx(sum(areas) / 3)


def test_metrics_of_two_classes_by_hand() -> None:
    metrics = class_metrics([0, 1, 1, 1], [[0.6, 0.4], [0.7, 0.3], [0.0, 1.0], [0.1, 0.9]], ["no", "yes"])
    # Of three pairs of a "yes" and a "no", two are in the right order.
    assert metrics["roc_auc"] == pytest.approx(2 / 3)
    assert metrics["loss"] == pytest.approx(-(math.log(0.6) + math.log(0.3) + math.log(0.9)) / 4)


def test_a_right_class_that_was_held_impossible_costs_much_but_not_everything() -> None:
    metrics = class_metrics([1, 0], [[1.0, 0.0], [1.0, 0.0]], ["no", "yes"])
    assert metrics["loss"] == pytest.approx(300 * math.log(10) / 2)


def test_the_calibration_error_is_that_of_a_slow_loop() -> None:
    draw = np.random.default_rng(2)
    chances = draw.dirichlet([1, 1, 1], size=300)
    labels = draw.integers(0, 3, size=300)
    total = 0.0
    for place in range(15):
        rows = [
            (row.max(), row.argmax() == label)
            for row, label in zip(chances, labels, strict=True)
            if place / 15 <= row.max() < (place + 1) / 15
        ]
        if rows:
            sure, right = np.mean([one[0] for one in rows]), np.mean([one[1] for one in rows])
            total += abs(sure - right) * len(rows) / 300
    report = class_report(labels.tolist(), chances.tolist(), LABELS)
    assert report.calibration_error == pytest.approx(total)
    assert class_report([0, 1], [[1.0, 0.0], [0.0, 1.0]], ["a", "b"]).calibration_error == 0


def test_fewer_metrics_are_given_for_missing_or_many_classes() -> None:
    few = class_metrics([0, 0], [[0.6, 0.4], [0.4, 0.6]], ["a", "b"])
    assert "roc_auc" not in few
    assert few["macro_f1"] == pytest.approx(f1_score([0, 0], [0, 1], average="macro", zero_division=0))
    many = class_metrics(list(range(21)), np.eye(21).tolist(), [str(at) for at in range(21)])
    assert not any("[" in name for name in many)
    assert many["accuracy"] == many["roc_auc"] == 1


def test_a_head_begins_at_zero_and_an_encoder_decoder_has_none(
    bases: dict[str, Path], task_plan: MakeTaskPlan
) -> None:
    plan = task_plan("classification", "encoder")
    model = LoraModel(plan.model.base, plan)
    assert isinstance(model.module, HeadedModel)
    assert not model.module.head.weight.any()
    assert with_head(model.peft, TaskSection()) is model.peft

    with pytest.raises(InputError, match="encoder-decoder; a head goes on"):
        load_base(str(bases["both"]), "float32", section("classification"))

"""For whom a model is good: metrics of groups, their largest gap, and how sure it is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import InputError
from common.plan.task import TaskSection
from common.results.evaluate import compare, evaluate, print_evaluation, task_section, to_flat
from common.run.evaluation import Evaluation
from common.tasks import make_task
from common.tasks.class_report import class_report
from common.tasks.classification import ClassPrediction
from common.tasks.scores import class_metrics
from tests.conftest import DEMO_BASE

CLASSES = TaskSection(kind="classification", labels=["no", "yes"])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_BASE)


def told(right: int, wrong: int) -> list[ClassPrediction]:
    return [ClassPrediction(1, (0.2, 0.8))] * right + [ClassPrediction(1, (0.7, 0.3))] * wrong


def compared(tokenizer: Any, **groups: tuple[int, int]) -> Any:
    predictions = [one for right, wrong in groups.values() for one in told(right, wrong)]
    values = [name for name, counts in groups.items() for _ in range(sum(counts))]
    return compare(make_task(CLASSES, tokenizer), "accuracy", predictions, values)


def test_the_gap_is_that_between_the_best_and_the_worst_group(tokenizer: Any) -> None:
    groups = compared(tokenizer, north=(8, 2), south=(10, 10), east=(19, 1))
    assert list(groups.metrics) == ["east", "south", "north"]  # the largest first
    assert [one["accuracy"] for one in groups.metrics.values()] == [0.95, 0.5, 0.8]
    assert groups.gap == pytest.approx(0.45)
    assert groups.interval[0] < groups.gap < groups.interval[1]


def test_the_interval_is_that_of_another_bootstrap(tokenizer: Any) -> None:
    groups = compared(tokenizer, north=(80, 20), south=(50, 50))
    # A sample of a group of 100 has a binomial number of right ones.
    draw = np.random.default_rng(7)
    gaps = np.abs(draw.binomial(100, 0.8, 200_000) - draw.binomial(100, 0.5, 200_000)) / 100
    assert groups.interval == pytest.approx(np.quantile(gaps, [0.025, 0.975]), abs=0.02)


def test_where_there_is_no_doubt_the_interval_is_a_point(tokenizer: Any) -> None:
    sure = compared(tokenizer, north=(5, 0), south=(0, 5))
    assert (sure.gap, sure.interval) == (1.0, (1.0, 1.0))
    alone = compared(tokenizer, north=(3, 5))
    assert (alone.gap, alone.interval) == (0.0, (0.0, 0.0))


def test_a_field_that_no_record_has_is_refused_and_those_there_are_named(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "public.jsonl"
    path.write_text(json.dumps({"text": "My parcel is late.", "region": "north"}) + "\n")
    model = AutoModelForCausalLM.from_pretrained(DEMO_BASE)
    with pytest.raises(InputError, match=r"--by regio: no record .* they have: region, text"):
        evaluate(model, tokenizer, TaskSection(), path, "regio")
    evaluation, groups = evaluate(model, tokenizer, TaskSection(), path, "region")
    assert groups is not None
    assert groups.metrics == {"north": evaluation.metrics}


def test_records_of_which_none_fits_are_refused_with_the_reason(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "public.jsonl"
    path.write_text('{"text": "a", "label": "maybe"}\n')
    with pytest.raises(InputError, match="none of 1 records fits the task, which needs text, label: its 'label'"):
        evaluate(None, tokenizer, CLASSES, path)


def test_another_template_takes_the_place_of_the_plans() -> None:
    assert task_section(None, None) == TaskSection()
    assert task_section(None, "{body}").template == "{body}"
    with pytest.raises(InputError, match="--template"):
        task_section(None, "no field")


def shown(evaluation: Evaluation) -> list[str]:
    console = Console(width=80, record=True, file=io.StringIO())
    print_evaluation(evaluation, None, console)
    return console.export_text().splitlines()


def reported(labels: list[str], pairs: list[tuple[int, int]]) -> Evaluation:
    chances = np.eye(len(labels))[[told for _, told in pairs]].tolist()
    right = [right for right, _ in pairs]
    return Evaluation(class_metrics(right, chances, labels), class_report(right, chances, labels))


def test_classes_and_what_they_were_taken_for_are_printed() -> None:
    evaluation = reported(["no", "yes"], [(0, 0)] * 3 + [(0, 1)] + [(1, 1)] * 120)
    lines = [" ".join(line.replace("│", " ").split()) for line in shown(evaluation)]
    assert "accuracy 0.991935" in lines  # 123 of 124
    assert not any(line.startswith("precision[") for line in lines)  # the table has it
    assert "1 no 1 0.75 0.8571 4" in lines
    assert "2 yes 0.9917 1 0.9959 120" in lines
    assert lines[lines.index("1 2") :][:4] == [
        "1 2",
        "1 3 1",
        "2 0 120",
        "confusion matrix: true classes in rows, predicted classes in columns",
    ]
    assert to_flat(evaluation)["confusion[no][yes]"] == 1
    assert to_flat(evaluation)["support[no]"] == 4
    assert to_flat(evaluation)["f1[no]"] == pytest.approx(6 / 7)


def test_twenty_classes_are_printed_whole_where_a_terminal_is_narrow() -> None:
    labels = [f"关于信用卡账单的问题 [bold]{at}" for at in range(20)]
    lines = shown(reported(labels, [(at, (at + 1) % 20) for at in range(20)] * 1000))
    assert "…" not in lines[-2]
    assert lines[-2].split() == ["20", "1000", *["0"] * 19]
    assert any("账单的问题 [bold]19" in line for line in lines)


def test_of_many_classes_the_most_frequent_confusions_are_printed() -> None:
    labels = [f"intent {at}" for at in range(77)]
    evaluation = reported(labels, [(5, 7)] * 3 + [(7, 5), (1, 1)])
    lines = [" ".join(line.replace("│", " ").split()) for line in shown(evaluation)]
    assert lines[lines.index("intent 5 intent 7 3") + 1] == "intent 7 intent 5 1"
    assert to_flat(evaluation) == evaluation.metrics
    assert "no class was confused with another" in shown(reported(labels, [(3, 3)]))

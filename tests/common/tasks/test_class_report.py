"""Class reports, against values computed by hand and by scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import classification_report, confusion_matrix

from common.plan.task import TaskSection
from common.tasks import make_task
from common.tasks.class_report import CalibrationBin, ClassReport, ClassScore, Confusion, class_report
from common.tasks.classification import ClassPrediction
from common.tasks.scores import class_metrics
from tests.common.tasks.bases import LABELS, section

RIGHT = [0, 0, 1, 1, 2]
CHANCES = [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]


def test_classes_by_hand(tokenizer: Any) -> None:
    task: Any = make_task(section("classification"), tokenizer)
    report = task.class_report([ClassPrediction(*one) for one in zip(RIGHT, map(tuple, CHANCES), strict=True)])
    # Predicted: no yes yes yes no.
    assert report.scores == (
        ClassScore("no", 0.5, 0.5, 0.5, 2),
        ClassScore("yes", pytest.approx(2 / 3), 1.0, pytest.approx(0.8), 2),
        ClassScore("perhaps", 0.0, 0.0, 0.0, 1),
    )
    assert report.matrix == ((1, 1, 0), (0, 2, 0), (1, 0, 0))
    assert report.confusions == (Confusion("no", "yes", 1), Confusion("perhaps", "no", 1))
    flat = report.flat()
    assert flat["support[yes]"] == 2
    assert flat["confusion[perhaps][no]"] == 1
    assert flat["confusion[no][perhaps]"] == 0
    assert len(flat) == 3 + 9


def test_the_matrix_and_the_scores_are_scikit_learns() -> None:
    draw = np.random.default_rng(3)
    right, chances = draw.integers(0, 6, 400), draw.dirichlet([0.4] * 6, size=400)
    names = [f"class {at}" for at in range(6)]
    report = class_report(right.tolist(), chances.tolist(), names)
    told = chances.argmax(1)
    assert report.matrix == tuple(map(tuple, confusion_matrix(right, told).tolist()))
    expected = classification_report(right, told, target_names=names, output_dict=True)
    for score in report.scores:
        assert (score.precision, score.recall, score.f1, score.support) == pytest.approx(
            tuple(expected[score.name][kind] for kind in ("precision", "recall", "f1-score", "support"))
        )


def test_calibration_by_hand() -> None:
    chances = [[0.9, 0.1], [0.9, 0.1], [0.08, 0.92], [0.55, 0.45], [0.0, 1.0]]
    report = class_report([0, 1, 1, 0, 1], chances, ["a", "b"])
    filled = {place: one for place, one in enumerate(report.calibration) if one.count}
    # 0.9 and 0.92 are between 13/15 and 14/15, 0.55 between 8/15 and 9/15, and 1 is in the last.
    assert set(filled) == {8, 13, 14}
    assert filled[13] == CalibrationBin(3, pytest.approx(2.72 / 3), pytest.approx(2 / 3))
    assert filled[8] == CalibrationBin(1, 0.55, 1.0)
    assert filled[14] == CalibrationBin(1, 1.0, 1.0)
    assert report.calibration_error == pytest.approx((3 * (2.72 / 3 - 2 / 3) + 0.45 + 0) / 5)
    assert class_metrics([0, 1, 1, 0, 1], chances, ["a", "b"])["calibration_error"] == report.calibration_error


@pytest.mark.parametrize("count", [20, 21, 77])
def test_of_many_classes_the_most_frequent_confusions_are_named(count: int) -> None:
    names = [f"intent {at}" for at in range(count)]
    pairs = [(5, 7)] * 4 + [(7, 5)] * 3 + [(1, 1)] * 9 + [(at, at + 1) for at in range(15)]
    report = class_report(
        [right for right, _ in pairs], [np.eye(count)[told].tolist() for _, told in pairs], names
    )
    assert bool(report.scores) == bool(report.matrix) == (count == 20)
    assert report.confusions[:3] == (
        Confusion("intent 5", "intent 7", 4),
        Confusion("intent 7", "intent 5", 3),
        Confusion("intent 0", "intent 1", 1),
    )
    assert len(report.confusions) == 10


def test_nan_from_a_poisoned_model_counts_as_no_confidence_and_raises_nothing() -> None:
    chances = [[math.nan] * 2, [0.2, 0.8]]
    metrics = class_metrics([0, 1], chances, ["a", "b"])
    assert math.isnan(metrics["loss"])
    assert "roc_auc" not in metrics
    assert [one.count for one in class_report([0, 1], chances, ["a", "b"]).calibration].count(1) == 2


def test_a_matrix_of_another_shape_is_refused() -> None:
    empty = (CalibrationBin(0, 0.0, 0.0),) * 15
    score = ClassScore("no", 0.0, 0.0, 0.0, 0)
    for matrix in ((), ((1, 2),), ((1,), (2,)), ((1, 2), (3, 4), (5, 6))):
        with pytest.raises(ValueError, match="a row and a column for each of 2 classes"):
            ClassReport((score, score), matrix, (), empty)


def test_labels_are_those_of_the_plan_in_its_order(tokenizer: Any) -> None:
    task: Any = make_task(TaskSection(kind="classification", labels=LABELS[::-1]), tokenizer)
    report = task.class_report([ClassPrediction(0, (0.2, 0.3, 0.5))])
    assert [score.name for score in report.scores] == ["perhaps", "yes", "no"]
    assert report.confusions == (Confusion("perhaps", "no", 1),)

"""Quality of a classification: scores per class, confusions between classes, and calibration of the confidence.

It counts texts with a known class, which are public or belong to the evaluator. It contains no text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field

# A table of more classes is not readable: only the most frequent confusions are reported then.
MOST_SHOWN = 20
BINS = 15
_MOST_CONFUSIONS = 10

# A report that is read from a run directory may have been written by another party.
_STRICT = ConfigDict(strict=True, extra="forbid")
_Count = Annotated[int, Field(ge=0, le=10**12)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Label = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class.

    Attributes:
        name: of the class.
        precision: fraction of the texts predicted as this class that belong to it; 0 if there are none.
        recall: fraction of the class's texts that were predicted as it; 0 if there are none.
        f1: the harmonic mean of the two.
        support: the number of texts of the class.
    """

    __pydantic_config__ = _STRICT
    name: _Label
    precision: _Share
    recall: _Share
    f1: _Share
    support: _Count


@dataclass(frozen=True)
class Confusion:
    """How often one class was predicted in place of another.

    Attributes:
        right: the true class.
        told: the predicted class.
        count: the number of texts.
    """

    __pydantic_config__ = _STRICT
    right: _Label
    told: _Label
    count: _Count


@dataclass(frozen=True)
class CalibrationBin:
    """Texts whose predicted class had a probability in one of 15 equal intervals of 0 to 1.

    Attributes:
        count: the number of texts.
        confidence: mean probability of the predicted class; 0 without texts.
        accuracy: fraction of correct predictions; 0 without texts.
    """

    __pydantic_config__ = _STRICT
    count: _Count
    confidence: _Share
    accuracy: _Share


@dataclass(frozen=True)
class ClassReport:
    """Quality of a classification.

    Attributes:
        scores: of each class, in the plan's order; empty with more than 20 classes.
        matrix: number of texts by true class (rows) and predicted class (columns), shape (classes, classes); empty
            with more than 20 classes.
        confusions: the 10 most frequent, in descending order.
        calibration: the 15 bins, from the least confident to the most.
    """

    __pydantic_config__ = _STRICT
    scores: Annotated[tuple[ClassScore, ...], Field(max_length=MOST_SHOWN)]
    matrix: tuple[tuple[_Count, ...], ...]
    confusions: Annotated[tuple[Confusion, ...], Field(max_length=_MOST_CONFUSIONS)]
    calibration: Annotated[tuple[CalibrationBin, ...], Field(min_length=BINS, max_length=BINS)]

    def __post_init__(self) -> None:
        if not len(self.matrix) == len(self.scores) != 1 or {len(row) for row in self.matrix} - {len(self.scores)}:
            raise ValueError(f"the matrix should have a row and a column for each of {len(self.scores)} classes")

    @property
    def names(self) -> set[str]:
        """The classes that occur in the report."""
        confused = {name for item in self.confusions for name in (item.right, item.told)}
        return confused.union(score.name for score in self.scores)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: the mean difference between confidence and accuracy, over all texts."""
        texts = sum(part.count for part in self.calibration)
        gaps = (part.count * abs(part.accuracy - part.confidence) for part in self.calibration)
        return sum(gaps) / max(1, texts)

    def flat(self) -> dict[str, int]:
        """Texts per class, and the matrix: `support[class]` and `confusion[true][predicted]`."""
        names = [score.name for score in self.scores]
        counts = {f"support[{score.name}]": score.support for score in self.scores}
        for right, row in zip(names, self.matrix, strict=True):
            counts |= {f"confusion[{right}][{other}]": count for other, count in zip(names, row, strict=True)}
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def class_report(
    labels: Sequence[int], probabilities: Sequence[Sequence[float]], names: Sequence[str]
) -> ClassReport:
    """Evaluate a classification with scikit-learn.

    Args:
        labels: the true class of each text; at least one.
        probabilities: of each class, for each text.
        names: of the classes.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    right, chances = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    predicted = chances.argmax(1)
    # Count pairs, without a matrix: there may be 10,000 classes.
    classes = zip(right.tolist(), predicted.tolist(), strict=True)
    pairs = Counter((true, other) for true, other in classes if true != other)
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_MOST_CONFUSIONS]
    confusions = tuple(Confusion(names[true], names[other], count) for (true, other), count in ordered)
    bins = calibration_bins(right, chances)
    if len(names) > MOST_SHOWN:
        return ClassReport((), (), confusions, bins)
    indices = list(range(len(names)))
    parts = precision_recall_fscore_support(right, predicted, labels=indices, zero_division=0.0)
    precision, recall, f1, support = (part.tolist() for part in parts)
    scores = tuple(map(ClassScore, names, precision, recall, f1, support))
    matrix = tuple(tuple(row) for row in confusion_matrix(right, predicted, labels=indices).tolist())
    return ClassReport(scores, matrix, confusions, bins)


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray) -> tuple[CalibrationBin, ...]:
    """Confidence against accuracy, in 15 bins of equal width (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Args:
        labels: shape (texts,).
        probabilities: shape (texts, classes).
    """
    # A rounded probability can slightly exceed 1; a poisoned model can give NaN, which counts as 0.
    confidence = np.minimum(np.nan_to_num(probabilities.max(1), nan=0.0), 1.0)
    right = probabilities.argmax(1) == labels
    indices = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for index in range(BINS):
        inside = indices == index
        count = int(inside.sum())
        mean = (float(confidence[inside].mean()), float(right[inside].mean())) if count else (0.0, 0.0)
        bins.append(CalibrationBin(count, *mean))
    return tuple(bins)

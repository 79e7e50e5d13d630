"""How well classes were told: each class, which were taken for which, and whether the confidence was earned.

Texts whose right class is known are counted; they are public, or the evaluator's own. It holds no text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field

# More classes make no table that anybody reads: then the most frequent confusions are named instead.
MOST_SHOWN = 20
BINS = 15
_MOST_CONFUSIONS = 10

# What is read back from a run directory may have been written by somebody else.
_STRICT = ConfigDict(strict=True, extra="forbid")
_Count = Annotated[int, Field(ge=0, le=10**12)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Label = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True)
class ClassScore:
    """How well one class was told.

    Attributes:
        name: of the class.
        precision: share of the texts told to be of it that are; 0 if there is none.
        recall: share of its texts that were told to be of it; 0 if there is none.
        f1: the harmonic mean of the two.
        support: texts that are of it.
    """

    __pydantic_config__ = _STRICT
    name: _Label
    precision: _Share
    recall: _Share
    f1: _Share
    support: _Count


@dataclass(frozen=True)
class Confusion:
    """How often one class was taken for another.

    Attributes:
        right: the class that it is.
        told: the class that was told.
        count: texts.
    """

    __pydantic_config__ = _STRICT
    right: _Label
    told: _Label
    count: _Count


@dataclass(frozen=True)
class CalibrationBin:
    """Texts whose likeliest class had a probability within one of 15 equal parts of 0 to 1.

    Attributes:
        count: texts.
        confidence: mean probability of the class that was told; 0 without a text.
        accuracy: share of them that were told right; 0 without a text.
    """

    __pydantic_config__ = _STRICT
    count: _Count
    confidence: _Share
    accuracy: _Share


@dataclass(frozen=True)
class ClassReport:
    """How well classes were told.

    Attributes:
        scores: of each class, in the plan's order; empty with more than 20 classes.
        matrix: texts by right class (rows) and told class (columns), shape (classes, classes); empty with more
            than 20 classes.
        confusions: the 10 most frequent ones, the most frequent first.
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
        """The classes that are named somewhere."""
        confused = {name for one in self.confusions for name in (one.right, one.told)}
        return confused.union(score.name for score in self.scores)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: the mean distance of confidence from accuracy, over all texts."""
        texts = sum(one.count for one in self.calibration)
        gaps = (one.count * abs(one.accuracy - one.confidence) for one in self.calibration)
        return sum(gaps) / max(1, texts)

    def flat(self) -> dict[str, int]:
        """Texts of each class, and the matrix: `support[class]` and `confusion[right][told]`."""
        names = [score.name for score in self.scores]
        counts = {f"support[{score.name}]": score.support for score in self.scores}
        for right, row in zip(names, self.matrix, strict=True):
            counts |= {f"confusion[{right}][{told}]": count for told, count in zip(names, row, strict=True)}
        return counts

    def to_dict(self) -> dict[str, Any]:
        """As nested JSON."""
        return asdict(self)


def class_report(
    labels: Sequence[int], probabilities: Sequence[Sequence[float]], names: Sequence[str]
) -> ClassReport:
    """Count what was told, by scikit-learn.

    Args:
        labels: the right class of each text; at least one.
        probabilities: of each class, for each text.
        names: of the classes.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    right, chances = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    told = chances.argmax(1)
    # Pairs are counted, not a matrix: there may be 10,000 classes.
    pairs = Counter((one, other) for one, other in zip(right.tolist(), told.tolist(), strict=True) if one != other)
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_MOST_CONFUSIONS]
    confusions = tuple(Confusion(names[one], names[other], count) for (one, other), count in ordered)
    bins = calibration_bins(right, chances)
    if len(names) > MOST_SHOWN:
        return ClassReport((), (), confusions, bins)
    every = list(range(len(names)))
    parts = precision_recall_fscore_support(right, told, labels=every, zero_division=0.0)
    precision, recall, f1, support = (part.tolist() for part in parts)
    scores = tuple(map(ClassScore, names, precision, recall, f1, support))
    matrix = tuple(tuple(row) for row in confusion_matrix(right, told, labels=every).tolist())
    return ClassReport(scores, matrix, confusions, bins)


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray) -> tuple[CalibrationBin, ...]:
    """Confidence against accuracy, in 15 bins of equal width (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Args:
        labels: shape (texts,).
        probabilities: shape (texts, classes).
    """
    # A sum of rounded probabilities may pass 1 by a hair; a model that was poisoned is sure of nothing.
    confidence = np.minimum(np.nan_to_num(probabilities.max(1), nan=0.0), 1.0)
    right = probabilities.argmax(1) == labels
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for place in range(BINS):
        inside = places == place
        count = int(inside.sum())
        mean = (float(confidence[inside].mean()), float(right[inside].mean())) if count else (0.0, 0.0)
        bins.append(CalibrationBin(count, *mean))
    return tuple(bins)

"""Metrics of predictions, from the libraries that are standard for them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from common.tasks.class_report import class_report


def class_metrics(
    labels: Sequence[int], probabilities: Sequence[Sequence[float]], names: Sequence[str]
) -> dict[str, float]:
    """Metrics of a classification, with scikit-learn.

    Args:
        labels: the true class of each text.
        probabilities: of each class, for each text.
        names: of the classes.

    Returns:
        Accuracy; macro F1 over the classes that occur as true or predicted; mean log loss (nats); calibration
        error; ROC-AUC if each class occurs (one against the rest, averaged). With up to 20 classes also precision,
        recall and F1 of each.
    """
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    right, chances = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    predicted = chances.argmax(1)
    report = class_report(labels, probabilities, names)
    metrics = {
        "accuracy": float(accuracy_score(right, predicted)),
        "macro_f1": float(f1_score(right, predicted, average="macro", zero_division=0.0)),
        "loss": float(-np.log(np.maximum(chances[np.arange(len(right)), right], 1e-300)).mean()),
        "calibration_error": report.calibration_error,
        "records": len(right),
    }
    if len(set(labels)) == len(names) and np.isfinite(chances).all():
        scores = chances[:, 1] if len(names) == 2 else chances
        metrics["roc_auc"] = float(roc_auc_score(right, scores, multi_class="ovr"))
    for score in report.scores:
        for kind in ("precision", "recall", "f1"):
            metrics[f"{kind}[{score.name}]"] = getattr(score, kind)
    return metrics


def answer_metrics(answers: Sequence[tuple[str, Sequence[str]]]) -> dict[str, float]:
    """Exact match and token F1 (Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250).

    For each answer, the best score over its references counts. Each Han character is a token.

    Args:
        answers: predictions and their references; both empty where there is no answer.

    >>> answer_metrics([("the north ward", ["North ward"]), ("bed 4", ["bed 5"])])
    {'exact_match': 0.5, 'f1': 0.75, 'records': 2}
    """
    exact = [
        max((_words(text) == _words(item) for item in right), default=not _words(text)) for text, right in answers
    ]
    shared = [
        max((_token_f1(text, item) for item in right), default=float(not _words(text))) for text, right in answers
    ]
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(shared)), "records": len(answers)}


def _words(text: str) -> list[str]:
    """Split into lower-case words, without punctuation and English articles."""
    kept = "".join(
        " " if mark in string.punctuation or unicodedata.category(mark).startswith("P") else mark
        for mark in text.lower()
    )
    spaced = re.sub(r"([\u3400-\u9fff\uf900-\ufaff])", r" \1 ", kept)
    return [word for word in spaced.split() if word not in ("a", "an", "the")]


def _token_f1(predicted: str, right: str) -> float:
    left, other = _words(predicted), _words(right)
    if not left or not other:
        return float(left == other)
    common = sum((Counter(left) & Counter(other)).values())
    return 2 * common / (len(left) + len(other))


def text_metrics(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """BLEU and chrF by sacreBLEU, ROUGE-L by rouge-score, all from 0 to 100."""
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    rouge = [scorer.score(right, text)["rougeL"].fmeasure for text, right in zip(written, references, strict=True)]
    return {
        "bleu": float(sacrebleu.corpus_bleu(list(written), [list(references)]).score),
        "chrf": float(sacrebleu.corpus_chrf(list(written), [list(references)]).score),
        "rouge_l": 100 * float(np.mean(rouge)),
    }

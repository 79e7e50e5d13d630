"""Classification: the class of a text, from a linear head on one vector of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from common.plan.task import TaskSection
from common.tasks import Example, UnusableError
from common.tasks.class_report import ClassReport, class_report
from common.tasks.text import SyntheticData, by_record, device_of, filled, model_inputs


@dataclass(frozen=True)
class ClassPrediction:
    """The classes of one text.

    Attributes:
        label: the true class.
        probabilities: of each class.
    """

    label: int
    probabilities: tuple[float, ...]


class Classification:
    """Predict the class of a text. The loss of an example is its cross-entropy.

    Args:
        section: of the plan.
        tokenizer: of the base model.
    """

    def __init__(self, section: TaskSection, tokenizer: Any) -> None:
        assert section.template is not None
        assert section.labels is not None
        assert section.label_field is not None
        self._template = section.template
        self._field = section.label_field
        self._classes = {label: place for place, label in enumerate(section.labels)}
        self._other = self._classes.get(section.other_label or "")
        self._tokenizer = tokenizer
        self._max_length = section.max_length

    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """Encode the record's text, with the tokenizer's special tokens, and its class."""
        label = self._label(record)
        return (Example(tuple(self.tokens(filled(self._template, record))), (label,)),)

    def tokens(self, text: str) -> list[int]:
        """Tokenize a text, truncated to `max_length`.

        Raises:
            UnusableError: it has no tokens.
        """
        ids = list(self._tokenizer(text.strip(), truncation=True, max_length=self._max_length)["input_ids"])
        if not ids:
            raise UnusableError("its text has no tokens")
        return ids

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Cross-entropy of each example's class, shape (examples,)."""
        labels = torch.tensor([example.labels[0] for example in examples], device=device_of(model))
        return F.cross_entropy(self._logits(model, examples, length), labels, reduction="none")

    def frozen(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> list[Example]:
        """Replace tokens by the frozen base model's vectors, so that only the head remains to be computed."""
        inputs = model_inputs(self._tokenizer, examples, length, device_of(model))
        vectors = model.vectors(**inputs).detach().cpu().numpy()  # type: ignore[operator]
        return [
            Example((), example.labels, vector=vector.tobytes())
            for example, vector in zip(examples, vectors, strict=True)
        ]

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Random token ids with random classes."""
        synthetic = SyntheticData(self._tokenizer, self._max_length)
        return [Example(ids, (synthetic.below(len(self._classes)),)) for ids in synthetic.rows(count, longest)]

    def predict(
        self, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]
    ) -> list[ClassPrediction | None]:
        """The class probabilities of each record's text."""

        def answer(examples: Sequence[Example]) -> list[ClassPrediction]:
            rows = self._logits(model, examples, max(map(len, examples))).double().softmax(1).tolist()
            return [
                ClassPrediction(example.labels[0], tuple(chances))
                for example, chances in zip(examples, rows, strict=True)
            ]

        return by_record(self, records, answer)

    def metrics(self, predictions: Sequence[ClassPrediction]) -> dict[str, float]:
        """Accuracy, macro F1 and the other metrics of `common.tasks.scores.class_metrics`."""
        from common.tasks.scores import class_metrics

        labels = [item.label for item in predictions]
        return class_metrics(labels, [item.probabilities for item in predictions], list(self._classes))

    def class_report(self, predictions: Sequence[ClassPrediction]) -> ClassReport:
        """Scores per class, confusions and calibration, over at least one prediction."""
        labels = [item.label for item in predictions]
        return class_report(labels, [item.probabilities for item in predictions], list(self._classes))

    def score(self, predictions: Sequence[ClassPrediction]) -> float:
        """Accuracy."""
        right = sum(max(item.probabilities) == item.probabilities[item.label] for item in predictions)
        return right / len(predictions)

    def _label(self, record: Mapping[str, Any]) -> int:
        value = record.get(self._field)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise UnusableError(f"its {self._field!r} is missing, or is not a text or integer")
        try:
            place = self._classes.get(str(value).strip(), self._other)
        except ValueError:  # Python refuses to print an integer with thousands of digits
            place = self._other
        if place is None:
            raise UnusableError(f"its {self._field!r} is not one of the plan's labels")
        return place

    def _logits(self, model: Any, examples: Sequence[Example], length: int) -> torch.Tensor:
        if examples[0].vector:
            data = bytearray(b"".join(example.vector for example in examples))
            vectors = torch.frombuffer(data, dtype=torch.float32).view(len(examples), -1)
            return model.head(vectors.to(device_of(model)))  # type: ignore[no-any-return]
        logits: torch.Tensor = model(**model_inputs(self._tokenizer, examples, length, device_of(model)))
        return logits

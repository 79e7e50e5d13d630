"""Extractive question answering: find the answer to a question in its context.

A long context is split into windows that overlap (Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section
4.2 and 4.3). All windows of a record belong to one unit, and so to one gradient that is clipped once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from common.errors import InputError
from common.plan.task import TaskSection
from common.tasks import Example, UnusableError
from common.tasks.text import SyntheticData, batches, clean, device_of, model_inputs

# The most tokens of a predicted answer; the same as in the scripts for SQuAD.
_LONGEST_ANSWER = 30
# A context of more windows is not used: its record would take the time of so many.
_MOST_WINDOWS = 1024
# Normalization makes at most 18 characters of one (U+FDFA in NFKC), and a character has at most 4 bytes.
_TOKENS_OF_A_CHARACTER = 72
# Position 0, where BERT has its [CLS] token: the label of a window without the answer.
_NOWHERE = 0


@dataclass(frozen=True)
class AnswerPrediction:
    """A predicted answer and its references.

    Attributes:
        answers: the references; empty if the question has no answer.
        text: the prediction; empty for no answer.
    """

    answers: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class _Window:
    """Tokens of a question and of a part of its context.

    Attributes:
        ids: of both.
        second: the position where the part of the context starts.
        spans: position of each token of the context → its first character, and its last + 1.
    """

    ids: tuple[int, ...]
    second: int
    spans: Mapping[int, tuple[int, int]]

    def positions(self, begin: int, end: int) -> tuple[int, int]:
        """The first and the last token of a range of characters; `_NOWHERE` if the window lacks a part."""
        first = [index for index, (left, right) in self.spans.items() if left <= begin < right]
        last = [index for index, (left, right) in self.spans.items() if left < end <= right]
        return (first[0], last[-1]) if first and last else (_NOWHERE, _NOWHERE)


class QuestionAnswering:
    """Find an answer in its context. The loss of a window is the mean of the losses of the answer's two ends.

    Args:
        section: of the plan.
        tokenizer: of the base model.

    Raises:
        InputError: the tokenizer does not map tokens to characters.
    """

    def __init__(self, section: TaskSection, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise InputError(
                'task.kind = "question-answering": the base model\'s tokenizer should be a fast tokenizer'
            )
        self._tokenizer = tokenizer
        self._max_length = section.max_length
        self._stride = section.stride or section.max_length // 4
        self._no_answer = bool(section.no_answer)

    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """Encode the windows of the context. The label of a window without the whole answer is its first token."""
        question, context = _text(record, "question"), _text(record, "context")
        place = self._place(record, context)
        examples = []
        for window in self._windows(question, context):
            labels = window.positions(*place) if place else (_NOWHERE, _NOWHERE)
            examples.append(Example(window.ids, labels, window.second))
        if place and all(example.labels == (_NOWHERE, _NOWHERE) for example in examples):
            raise UnusableError("its answer is longer than the overlap of windows (stride)")
        return tuple(examples)

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Mean cross-entropy of the first and the last token of each answer, shape (examples,)."""
        logits = self._logits(model, examples, length)
        labels = torch.tensor([example.labels for example in examples], device=logits.device)
        first = F.cross_entropy(logits[..., 0], labels[:, 0], reduction="none")
        return (first + F.cross_entropy(logits[..., 1], labels[:, 1], reduction="none")) / 2

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Random token ids with random ends of an answer."""
        synthetic = SyntheticData(self._tokenizer, self._max_length)
        return [
            Example(ids, (synthetic.below(len(ids)), synthetic.below(len(ids))), len(ids) // 2)
            for ids in synthetic.rows(count, longest)
        ]

    def predict(
        self, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]
    ) -> list[AnswerPrediction | None]:
        """The most likely answer to each record's question, over all windows of its context."""
        questions = [self._question(record) for record in records]
        items = [(index, window) for index, item in enumerate(questions) if item for window in item[2]]
        spans: list[list[_Span]] = [[] for _ in records]
        examples = [Example(window.ids, (0, 0), window.second) for _, window in items]
        with torch.inference_mode():
            for batch in batches(examples, 16):
                chosen = [examples[index] for index in batch]
                scores = self._logits(model, chosen, max(map(len, chosen))).double().log_softmax(1).cpu()
                for row, index in enumerate(batch):
                    owner, window = items[index]
                    spans[owner].append(_best(scores[row], window))
        predictions: list[AnswerPrediction | None] = []
        for item, windows in zip(questions, spans, strict=True):
            predictions.append(AnswerPrediction(item[0], self._read(item[1], windows)) if item else None)
        return predictions

    def metrics(self, predictions: Sequence[AnswerPrediction]) -> dict[str, float]:
        """Exact match and F1 as for SQuAD, see `common.tasks.scores`."""
        from common.tasks.scores import answer_metrics

        return answer_metrics([(item.text, item.answers) for item in predictions])

    def score(self, predictions: Sequence[AnswerPrediction]) -> float:
        """F1."""
        return self.metrics(predictions)["f1"]

    def _question(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...], str, list[_Window]] | None:
        try:
            question, context = _text(record, "question"), _text(record, "context")
            answers = tuple(_answers(record)[0])
            if not answers and not self._no_answer:
                return None
            return answers, context, self._windows(question, context)
        except UnusableError:
            return None

    def _read(self, context: str, windows: Sequence[_Span]) -> str:
        best = max(windows, key=lambda span: span.score)
        if self._no_answer and min(span.nowhere for span in windows) > best.score:
            return ""
        return context[best.begin : best.end]

    def _place(self, record: Mapping[str, Any], context: str) -> tuple[int, int] | None:
        """The first character of the first answer and its last + 1; None if there is no answer."""
        answers, starts = _answers(record)
        if not answers:
            if not self._no_answer:
                raise UnusableError("it has no answer, and the plan does not say no_answer = true")
            return None
        start = starts[0] if starts else context.find(answers[0])
        if not answers[0].strip() or start < 0 or context[start : start + len(answers[0])] != answers[0]:
            raise UnusableError("its answer is not in its context at the given start")
        return start, start + len(answers[0])

    def _windows(self, question: str, context: str) -> list[_Window]:
        question_length = len(self._tokenizer(question, add_special_tokens=False)["input_ids"])
        special = self._tokenizer.num_special_tokens_to_add(pair=True)
        new_tokens = self._max_length - question_length - special - self._stride
        if new_tokens <= 0:
            raise UnusableError("its question leaves no room for its context within max_length")
        if self._has_too_many_windows(context, new_tokens):
            raise UnusableError(f"its context has more than {_MOST_WINDOWS} windows")
        encoded = self._tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=self._max_length,
            stride=self._stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        windows = []
        for number, ids in enumerate(encoded["input_ids"]):
            offsets = encoded["offset_mapping"][number]
            spans = {
                index: tuple(offsets[index])
                for index, text in enumerate(encoded.sequence_ids(number))
                if text == 1 and offsets[index][1] > offsets[index][0]
            }
            if spans:
                windows.append(_Window(tuple(ids), min(spans), spans))
        if not windows:
            raise UnusableError("its context has no tokens")
        return windows

    def _has_too_many_windows(self, context: str, new_tokens: int) -> bool:
        """Whether a context has more than `_MOST_WINDOWS` windows, of so many tokens that no other window has."""
        most = _MOST_WINDOWS * new_tokens
        if len(context) * _TOKENS_OF_A_CHARACTER <= most:
            return False
        return len(self._tokenizer(context, add_special_tokens=False)["input_ids"]) > most

    def _logits(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Scores of each token as the first and as the last; shape (examples, length, 2), −∞ for padding."""
        inputs = model_inputs(self._tokenizer, examples, length, device_of(model))
        logits: torch.Tensor = model(**inputs)
        return logits.masked_fill(inputs["attention_mask"].unsqueeze(-1) == 0, float("-inf"))


@dataclass(frozen=True)
class _Span:
    """The best answer in a window: its score, the score of no answer, and its characters."""

    score: float
    nowhere: float
    begin: int
    end: int


def _best(scores: torch.Tensor, window: _Window) -> _Span:
    """The most likely answer in a window. Scores: log-probabilities, shape (positions, 2)."""
    places = sorted(window.spans)
    first = scores[places, 0].unsqueeze(1)
    both = first + scores[places, 1].unsqueeze(0)
    # An answer does not end before it starts, and has a bounded length.
    allowed = torch.ones_like(both).triu().tril(_LONGEST_ANSWER - 1).bool()
    both = both.masked_fill(~allowed, float("-inf"))
    begin, end = divmod(int(both.argmax()), len(places))
    nowhere = float(scores[_NOWHERE].sum())
    return _Span(float(both.max()), nowhere, window.spans[places[begin]][0], window.spans[places[end]][1])


def _text(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise UnusableError(f"its {field!r} is missing, empty or not a text")
    return clean(value)


def _answers(record: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Answers and their starts, given as two lists or as SQuAD's table of two lists."""
    answers, starts = record.get("answers"), record.get("answer_starts")
    if isinstance(answers, Mapping):
        starts = answers.get("answer_start")
        answers = answers.get("text")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise UnusableError("its 'answers' is not a list of texts")
    if starts is None:
        return [clean(answer) for answer in answers], []
    if (
        not isinstance(starts, list)
        or len(starts) != len(answers)
        or any(type(start) is not int for start in starts)
    ):
        raise UnusableError("its answers and answer starts do not match")
    return [clean(answer) for answer in answers], starts

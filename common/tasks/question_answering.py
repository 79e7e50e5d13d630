"""Extractive question answering: where in a context the answer to a question stands.

A long context is looked at in windows that overlap (Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section
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
from common.tasks.text import MadeUp, batches, clean, device_of, model_inputs

# Tokens of an answer that is predicted, at most; SQuAD's scripts take the same.
_LONGEST_ANSWER = 30
# Position 0, where BERT has its [CLS] token: what a window without the answer points at.
_NOWHERE = 0


@dataclass(frozen=True)
class AnswerPrediction:
    """An answer beside those that are right.

    Attributes:
        answers: each of them is right; none where the question has no answer.
        text: what was predicted; empty for no answer.
    """

    answers: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class _Window:
    """Tokens of a question and of a part of its context.

    Attributes:
        ids: of both.
        second: where the part of the context begins.
        spans: for each token of the context (position → first and last character + 1).
    """

    ids: tuple[int, ...]
    second: int
    spans: Mapping[int, tuple[int, int]]

    def positions(self, begin: int, end: int) -> tuple[int, int]:
        """The tokens with the first and the last of some characters; nowhere if they are not all in the window."""
        first = [at for at, (left, right) in self.spans.items() if left <= begin < right]
        last = [at for at, (left, right) in self.spans.items() if left < end <= right]
        return (first[0], last[-1]) if first and last else (_NOWHERE, _NOWHERE)


class QuestionAnswering:
    """Find an answer in its context. The loss of a window is the mean of those of its answer's two ends.

    Args:
        section: of the plan.
        tokenizer: of the base model.

    Raises:
        InputError: the tokenizer does not tell which characters a token stands for.
    """

    def __init__(self, section: TaskSection, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise InputError('task.kind = "question-answering": the base model\'s tokenizer should be a fast one')
        self._tokenizer = tokenizer
        self._max_length = section.max_length
        self._stride = section.stride or section.max_length // 4
        self._no_answer = bool(section.no_answer)

    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """The windows of the context. Those without the whole answer point at their first token."""
        question, context = _text(record, "question"), _text(record, "context")
        place = self._place(record, context)
        examples = []
        for window in self._windows(question, context):
            labels = window.positions(*place) if place else (_NOWHERE, _NOWHERE)
            examples.append(Example(window.ids, labels, window.second))
        if place and all(example.labels == (_NOWHERE, _NOWHERE) for example in examples):
            raise UnusableError("its answer is longer than what windows share")
        return tuple(examples)

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Mean cross-entropy of the first and the last token of each answer, shape (examples,)."""
        logits = self._logits(model, examples, length)
        labels = torch.tensor([example.labels for example in examples], device=logits.device)
        first = F.cross_entropy(logits[..., 0], labels[:, 0], reduction="none")
        return (first + F.cross_entropy(logits[..., 1], labels[:, 1], reduction="none")) / 2

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Random token ids with the ends of an answer anywhere in them."""
        made = MadeUp(self._tokenizer, self._max_length)
        return [
            Example(ids, (made.below(len(ids)), made.below(len(ids))), len(ids) // 2)
            for ids in made.rows(count, longest)
        ]

    def predict(
        self, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]
    ) -> list[AnswerPrediction | None]:
        """The likeliest answer to each record's question, over all windows of its context."""
        found = [self._question(record) for record in records]
        items = [(at, window) for at, one in enumerate(found) if one for window in one[2]]
        spans: list[list[_Span]] = [[] for _ in records]
        examples = [Example(window.ids, (0, 0), window.second) for _, window in items]
        with torch.inference_mode():
            for batch in batches(examples, 16):
                chosen = [examples[at] for at in batch]
                scores = self._logits(model, chosen, max(map(len, chosen))).double().log_softmax(1).cpu()
                for row, at in enumerate(batch):
                    owner, window = items[at]
                    spans[owner].append(_best(scores[row], window))
        made: list[AnswerPrediction | None] = []
        for one, windows in zip(found, spans, strict=True):
            made.append(AnswerPrediction(one[0], self._read(one[1], windows)) if one else None)
        return made

    def metrics(self, predictions: Sequence[AnswerPrediction]) -> dict[str, float]:
        """Exact match and F1 as SQuAD has them, see `common.tasks.scores`."""
        from common.tasks.scores import answer_metrics

        return answer_metrics([(made.text, made.answers) for made in predictions])

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
        """The first and last + 1 character of the first answer; None if there is no answer."""
        answers, starts = _answers(record)
        if not answers:
            if not self._no_answer:
                raise UnusableError("it has no answer, and the plan does not say no_answer = true")
            return None
        start = starts[0] if starts else context.find(answers[0])
        if not answers[0].strip() or start < 0 or context[start : start + len(answers[0])] != answers[0]:
            raise UnusableError("its answer does not stand in its context, there where it says")
        return start, start + len(answers[0])

    def _windows(self, question: str, context: str) -> list[_Window]:
        asked = len(self._tokenizer(question, add_special_tokens=False)["input_ids"])
        around = self._tokenizer.num_special_tokens_to_add(pair=True)
        if self._max_length - asked - around <= self._stride:
            raise UnusableError("its question leaves no room for its context within max_length")
        made = self._tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=self._max_length,
            stride=self._stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        windows = []
        for place, ids in enumerate(made["input_ids"]):
            spans = {
                at: tuple(made["offset_mapping"][place][at])
                for at, text in enumerate(made.sequence_ids(place))
                if text == 1 and made["offset_mapping"][place][at][1] > made["offset_mapping"][place][at][0]
            }
            if spans:
                windows.append(_Window(tuple(ids), min(spans), spans))
        if not windows:
            raise UnusableError("its context has no tokens")
        return windows

    def _logits(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Scores of each token as first and as last one, shape (examples, length, 2); −∞ beyond an example."""
        inputs = model_inputs(self._tokenizer, examples, length, device_of(model))
        logits: torch.Tensor = model(**inputs)
        return logits.masked_fill(inputs["attention_mask"].unsqueeze(-1) == 0, float("-inf"))


@dataclass(frozen=True)
class _Span:
    """The best answer in a window: its score, that of no answer, its characters."""

    score: float
    nowhere: float
    begin: int
    end: int


def _best(scores: torch.Tensor, window: _Window) -> _Span:
    """The likeliest answer in a window. Scores: (positions, 2), logarithms of probabilities."""
    places = sorted(window.spans)
    first = scores[places, 0].unsqueeze(1)
    both = first + scores[places, 1].unsqueeze(0)
    # An answer does not end before it begins, and is not endless.
    allowed = torch.ones_like(both).triu().tril(_LONGEST_ANSWER - 1).bool()
    both = both.masked_fill(~allowed, float("-inf"))
    begin, end = divmod(int(both.argmax()), len(places))
    nowhere = float(scores[_NOWHERE].sum())
    return _Span(float(both.max()), nowhere, window.spans[places[begin]][0], window.spans[places[end]][1])


def _text(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise UnusableError(f"its {field!r} is missing, empty or no text")
    return clean(value)


def _answers(record: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Answers and where they begin: as two lists, or as SQuAD's table of two lists."""
    answers, starts = record.get("answers"), record.get("answer_starts")
    if isinstance(answers, Mapping):
        starts = answers.get("answer_start")
        answers = answers.get("text")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise UnusableError("its 'answers' is no list of texts")
    if starts is None:
        return [clean(answer) for answer in answers], []
    if not isinstance(starts, list) or len(starts) != len(answers) or any(type(at) is not int for at in starts):
        raise UnusableError("its answers and where they begin do not belong together")
    return [clean(answer) for answer in answers], starts

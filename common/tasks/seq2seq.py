"""Sequence to sequence: an encoder-decoder writes a text from another one, to translate or to sum up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.plan.task import TaskSection
from common.tasks import IGNORED, Example, UnusableError
from common.tasks.text import MadeUp, by_record, check_ends_texts, device_of, filled, model_inputs, padded
from common.tasks.tokens import TokenPrediction, mean_losses, perplexity, token_metrics, token_predictions


@dataclass(frozen=True)
class TextPrediction:
    """A text beside the one that is right.

    Attributes:
        tokens: how well those of the right text were predicted.
        text: what was written, greedily.
        reference: what is right.
    """

    tokens: TokenPrediction
    text: str
    reference: str


class Seq2Seq:
    """Write `response` from `template`. The loss of an example is the mean over the tokens of its response.

    Args:
        section: of the plan.
        tokenizer: of the base model.

    Raises:
        InputError: the tokenizer has no end-of-text token.
    """

    def __init__(self, section: TaskSection, tokenizer: Any) -> None:
        check_ends_texts(section, tokenizer)
        assert section.template is not None
        assert section.response is not None
        self._template = section.template
        self._response = section.response
        self._tokenizer = tokenizer
        self._max_length = section.max_length

    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """The tokens of both texts, with what the base model puts around them."""
        options: dict[str, Any] = {"truncation": True, "max_length": self._max_length}
        ids = self._tokenizer(filled(self._template, record).strip(), **options)["input_ids"]
        labels = self._tokenizer(text_target=filled(self._response, record).strip(), **options)["input_ids"]
        if not ids or not labels:
            raise UnusableError("one of its texts has no tokens")
        return (Example(tuple(ids), tuple(labels)),)

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Mean cross-entropy of the tokens of each response, shape (examples,)."""
        return mean_losses(*self._predictions(model, examples, length))

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Random token ids for both texts."""
        made = MadeUp(self._tokenizer, self._max_length)
        return [Example(ids, made.rows(1, len(ids))[0]) for ids in made.rows(count, longest)]

    def predict(self, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]) -> list[TextPrediction | None]:
        """What the model writes from each record, and how well it predicts what is right."""

        def answer(examples: Sequence[Example]) -> list[tuple[TokenPrediction, str]]:
            logits, labels = self._predictions(model, examples, max(map(len, examples)))
            scored = token_predictions(logits, labels, self._tokenizer)
            return list(zip(scored, self._write(model, examples), strict=True))

        return [
            TextPrediction(*made, filled(self._response, record).strip()) if made else None
            for record, made in zip(records, by_record(self, records, answer, rows=16), strict=True)
        ]

    def metrics(self, predictions: Sequence[TextPrediction]) -> dict[str, float]:
        """BLEU, chrF and ROUGE-L of what was written, and perplexity of what is right."""
        from common.tasks.scores import text_metrics

        written = text_metrics([made.text for made in predictions], [made.reference for made in predictions])
        return {**written, **token_metrics([made.tokens for made in predictions])}

    def score(self, predictions: Sequence[TextPrediction]) -> float:
        """Perplexity."""
        return perplexity([made.tokens for made in predictions])

    def _write(self, model: Any, examples: Sequence[Example]) -> list[str]:
        inputs = model_inputs(self._tokenizer, examples, max(map(len, examples)), device_of(model))
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                made = model.generate(**inputs, max_new_tokens=self._max_length, do_sample=False, num_beams=1)
        finally:
            model.train(was_training)
        texts: list[str] = self._tokenizer.batch_decode(made, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _predictions(
        self, model: Any, examples: Sequence[Example], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (examples, length, vocabulary) in float32, and the token that each should predict."""
        device = device_of(model)
        labels = padded([example.labels for example in examples], length, IGNORED).to(device)
        logits = model(
            **model_inputs(self._tokenizer, examples, length, device),
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels=labels),
        ).logits
        return logits.float(), labels

"""Losses and metrics of tasks that predict tokens."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from common.tasks import IGNORED, Example, UnusableError
from common.tasks.text import SyntheticData, by_record, device_of, model_inputs, padded

# The exponential of a larger number overflows float64.
_LARGEST_EXPONENT = 709.0


@dataclass(frozen=True)
class TokenPrediction:
    """The quality of the predictions for one record's tokens.

    Attributes:
        nats: total negative log-likelihood of its tokens.
        tokens: the number of tokens.
        right: the number of tokens that were predicted as the most likely.
        size: bytes of their text in UTF-8.
    """

    nats: float
    tokens: int
    right: int
    size: int


def mean_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of each example's own labels, shape (examples,).

    Args:
        logits: (examples, positions, vocabulary).
        labels: (examples, positions); `IGNORED` where no loss is taken.
    """
    tokens = F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(labels.shape)
    return tokens.sum(1) / (labels != IGNORED).sum(1)


def token_predictions(logits: torch.Tensor, labels: torch.Tensor, tokenizer: Any) -> list[TokenPrediction]:
    """Compare logits with labels, one prediction for each example; shapes as in `mean_losses`."""
    predictions = []
    for row, wanted in zip(logits, labels, strict=True):
        counted = wanted != IGNORED
        right = int((row[counted].argmax(-1) == wanted[counted]).sum())
        nats = float(F.cross_entropy(row[counted].double(), wanted[counted], reduction="sum"))
        text = tokenizer.decode(wanted[counted], skip_special_tokens=True)
        predictions.append(TokenPrediction(nats, int(counted.sum()), right, len(text.encode())))
    return predictions


def token_metrics(predictions: Sequence[TokenPrediction]) -> dict[str, float]:
    """Loss (nats) and perplexity per token, bits per byte of text, and the accuracy of the likeliest token."""
    nats = math.fsum(item.nats for item in predictions)
    tokens = sum(item.tokens for item in predictions)
    size = sum(item.size for item in predictions)
    return {
        "loss": nats / tokens,
        "perplexity": perplexity(predictions),
        "bits_per_byte": nats / math.log(2) / max(1, size),
        "accuracy": sum(item.right for item in predictions) / tokens,
        "tokens": tokens,
        "records": len(predictions),
    }


def perplexity(predictions: Sequence[TokenPrediction]) -> float:
    """The exponential of the mean negative log-likelihood of all tokens; infinite if it overflows."""
    mean = math.fsum(item.nats for item in predictions) / sum(item.tokens for item in predictions)
    return math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf


class NextTokens(ABC):
    """Predict each next token with a decoder. The loss of an example is the mean over its own tokens.

    Args:
        tokenizer: of the base model.
        max_length: tokens of an example at most.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    @abstractmethod
    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """Encode a record as one example; defined by each task.

        Raises:
            UnusableError: the record cannot be used.
        """

    def example(self, ids: Sequence[int], labels: Sequence[int]) -> tuple[Example, ...]:
        """Build the example from token ids and their labels, truncated to `max_length`.

        Raises:
            UnusableError: no token remains to be predicted.
        """
        ids, labels = ids[: self.max_length], labels[: self.max_length]
        if all(label == IGNORED for label in labels[1:]):
            raise UnusableError("it has no token to predict within max_length")
        return (Example(tuple(ids), tuple(labels)),)

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Mean cross-entropy of each example's own tokens, shape (examples,)."""
        return mean_losses(*self._predictions(model, examples, length))

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Random token ids of different lengths, so that padding is tested too."""
        return [Example(ids, ids) for ids in SyntheticData(self.tokenizer, self.max_length).rows(count, longest)]

    def predict(
        self, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]
    ) -> list[TokenPrediction | None]:
        """Evaluate the predictions for each record's tokens."""

        def answer(examples: Sequence[Example]) -> list[TokenPrediction]:
            longest = max(map(len, examples))
            return token_predictions(*self._predictions(model, examples, longest), self.tokenizer)

        return by_record(self, records, answer)

    def metrics(self, predictions: Sequence[TokenPrediction]) -> dict[str, float]:
        """Perplexity and related metrics over all tokens; see `token_metrics`."""
        return token_metrics(predictions)

    def score(self, predictions: Sequence[TokenPrediction]) -> float:
        """Perplexity."""
        return perplexity(predictions)

    def _predictions(
        self, model: torch.nn.Module, examples: Sequence[Example], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (examples, length, vocabulary) in float32, and the next token at each position."""
        device = device_of(model)
        logits = model(**model_inputs(self.tokenizer, examples, length, device)).logits
        labels = padded([example.labels[1:] for example in examples], length, IGNORED)
        return logits.float(), labels.to(device)

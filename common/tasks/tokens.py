"""Tokens to be predicted: their losses, and what is said of a model that predicts them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from common.tasks import IGNORED, Example, UnusableError
from common.tasks.text import MadeUp, by_record, device_of, model_inputs, padded

# e to more than this is no float64.
_LARGEST_EXPONENT = 709.0


@dataclass(frozen=True)
class TokenPrediction:
    """How well the tokens of one record were predicted.

    Attributes:
        nats: negative log-likelihood of its tokens together.
        tokens: how many they are.
        right: how many of them were the likeliest.
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
    """What logits say of labels, one prediction for each example; shapes as in `mean_losses`."""
    made = []
    for row, wanted in zip(logits, labels, strict=True):
        counted = wanted != IGNORED
        right = int((row[counted].argmax(-1) == wanted[counted]).sum())
        nats = float(F.cross_entropy(row[counted].double(), wanted[counted], reduction="sum"))
        text = tokenizer.decode(wanted[counted], skip_special_tokens=True)
        made.append(TokenPrediction(nats, int(counted.sum()), right, len(text.encode())))
    return made


def token_metrics(predictions: Sequence[TokenPrediction]) -> dict[str, float]:
    """Loss (nats) and perplexity a token, bits a byte of text, and the share of tokens that were the likeliest."""
    nats = math.fsum(made.nats for made in predictions)
    tokens = sum(made.tokens for made in predictions)
    size = sum(made.size for made in predictions)
    return {
        "loss": nats / tokens,
        "perplexity": perplexity(predictions),
        "bits_per_byte": nats / math.log(2) / max(1, size),
        "accuracy": sum(made.right for made in predictions) / tokens,
        "tokens": tokens,
        "records": len(predictions),
    }


def perplexity(predictions: Sequence[TokenPrediction]) -> float:
    """E to the mean negative log-likelihood of all tokens; infinite where that is too large a number."""
    mean = math.fsum(made.nats for made in predictions) / sum(made.tokens for made in predictions)
    return math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf


class NextTokens(ABC):
    """Predict each next token of what a decoder reads. The loss of an example is the mean over its own tokens.

    Args:
        tokenizer: of the base model.
        max_length: tokens of an example at most.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    @abstractmethod
    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """The one example of a record; each kind of text has its own.

        Raises:
            UnusableError: it can contribute nothing.
        """

    def example(self, ids: Sequence[int], labels: Sequence[int]) -> tuple[Example, ...]:
        """Token ids and what each of them should be, cut at the end if there are too many.

        Raises:
            UnusableError: no token is left to be predicted.
        """
        ids, labels = ids[: self.max_length], labels[: self.max_length]
        if all(label == IGNORED for label in labels[1:]):
            raise UnusableError("it holds no token to predict within max_length")
        return (Example(tuple(ids), tuple(labels)),)

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Mean cross-entropy of each example's own tokens, shape (examples,)."""
        return mean_losses(*self._predictions(model, examples, length))

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Random token ids; lengths differ, so that padding is part of what is checked."""
        return [Example(ids, ids) for ids in MadeUp(self.tokenizer, self.max_length).rows(count, longest)]

    def predict(
        self, model: torch.nn.Module, records: Sequence[Mapping[str, Any]]
    ) -> list[TokenPrediction | None]:
        """How well the tokens of each record are predicted."""

        def answer(examples: Sequence[Example]) -> list[TokenPrediction]:
            longest = max(map(len, examples))
            return token_predictions(*self._predictions(model, examples, longest), self.tokenizer)

        return by_record(self, records, answer)

    def metrics(self, predictions: Sequence[TokenPrediction]) -> dict[str, float]:
        """Perplexity and what goes with it, over all tokens; see `token_metrics`."""
        return token_metrics(predictions)

    def score(self, predictions: Sequence[TokenPrediction]) -> float:
        """Perplexity."""
        return perplexity(predictions)

    def _predictions(
        self, model: torch.nn.Module, examples: Sequence[Example], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (examples, length, vocabulary) in float32, and the next token that each should predict."""
        device = device_of(model)
        logits = model(**model_inputs(self.tokenizer, examples, length, device)).logits
        labels = padded([example.labels[1:] for example in examples], length, IGNORED)
        return logits.float(), labels.to(device)

"""Causal language modelling: predict each next token of a record's text."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from common.tasks import Example

_IGNORED = -100


class CausalLM:
    """Predict each next token. The loss of an example is the mean over that example's own tokens.

    Args:
        template: the text of a record, its fields in braces.
        max_length: tokens of an example at most.
        tokenizer: of the base model; has an end-of-text token.
    """

    def __init__(self, template: str, max_length: int, tokenizer: Any) -> None:
        self._template = template
        self._max_length = max_length
        self._tokenizer = tokenizer

    def encode(self, record: Mapping[str, Any]) -> Example | None:
        """The tokens of the record's text, begun and ended as the base model expects."""
        try:
            fields = {key: value for key, value in record.items() if isinstance(value, str | int | float)}
            text = self._template.format_map(fields).strip()
        except (KeyError, ValueError):
            return None
        if not text:
            return None
        # A lone surrogate passes JSON but is no text; a tokenizer may fail on it.
        text = text.encode("utf-8", "replace").decode("utf-8")
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        begin = self._tokenizer.bos_token_id
        ids = ([] if begin is None else [begin]) + ids + [self._tokenizer.eos_token_id]
        ids = ids[: self._max_length]
        return Example(tuple(ids), tuple(ids)) if len(ids) >= 2 else None

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Mean cross-entropy of each example's own tokens, shape (examples,)."""
        logits, labels = self._predictions(model, examples, length)
        tokens = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED, reduction="none"
        ).view(labels.shape)
        return tokens.sum(1) / (labels != _IGNORED).sum(1)

    def synthetic(self, count: int, longest: int = 12) -> list[Example]:
        """Random token ids; lengths differ, so that padding is part of what is checked."""
        draw = random.Random(0)  # noqa: S311 - made-up examples are no secret
        longest = min(self._max_length, longest)
        examples = []
        for index in range(count):
            length = max(2, longest - 2 * index)
            ids = tuple(draw.randrange(len(self._tokenizer)) for _ in range(length))
            examples.append(Example(ids, ids))
        return examples

    def evaluate(self, model: torch.nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Loss (nats) and perplexity per token over all tokens, and the share of tokens predicted right."""
        loss, right, count = 0.0, 0, 0
        with torch.inference_mode():
            for start in range(0, len(examples), 32):
                batch = examples[start : start + 32]
                logits, labels = self._predictions(model, batch, max(map(len, batch)))
                counted = labels != _IGNORED
                loss += float(F.cross_entropy(logits[counted].double(), labels[counted], reduction="sum"))
                right += int((logits.argmax(-1) == labels)[counted].sum())
                count += int(counted.sum())
        mean = loss / count
        return {"loss": mean, "perplexity": float(torch.tensor(mean, dtype=torch.float64).exp()),
                "accuracy": right / count, "tokens": count, "records": len(examples)}  # fmt: skip

    def _predictions(
        self, model: torch.nn.Module, examples: Sequence[Example], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (examples, length, vocabulary) in float32, and the next token that each should predict."""
        device = next(model.parameters()).device
        shape = (len(examples), length)
        padding = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else 0
        ids = torch.full(shape, padding)
        mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, _IGNORED)
        for row, example in enumerate(examples):
            ids[row, : len(example)] = torch.tensor(example.input_ids)
            mask[row, : len(example)] = 1
            labels[row, : len(example) - 1] = torch.tensor(example.labels[1:])
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        return logits.float(), labels.to(device)

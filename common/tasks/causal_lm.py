"""Causal language modelling: predict each next token of a record's text, or of its response alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.plan.task import TaskSection
from common.tasks import IGNORED, Example
from common.tasks.text import check_ends_texts, filled
from common.tasks.tokens import NextTokens


class CausalLM(NextTokens):
    """Predict each next token of `template`, or those of `response` after it.

    Args:
        section: of the plan.
        tokenizer: of the base model.

    Raises:
        InputError: the tokenizer has no end-of-text token.
    """

    def __init__(self, section: TaskSection, tokenizer: Any) -> None:
        super().__init__(tokenizer, section.max_length)
        check_ends_texts(section, tokenizer)
        assert section.template is not None
        self._template = section.template
        self._response = section.response

    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """Encode the record's text, with the start and end tokens that the base model expects.

        A response is tokenized separately, so that the tokens of the prompt do not depend on it.
        """
        begin = self.tokenizer.bos_token_id
        ids = ([] if begin is None else [begin]) + self._tokens(filled(self._template, record).strip())
        labels = ids
        if self._response is not None:
            response = self._tokens(filled(self._response, record).rstrip())
            ids, labels = ids + response, [IGNORED] * len(ids) + response
        end = [self.tokenizer.eos_token_id]
        return self.example(ids + end, labels + end)

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

"""Dialogues in the tokenizer's chat template: predict the assistant's turns only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from common.errors import InputError
from common.plan.task import TaskSection
from common.tasks import IGNORED, Example, UnusableError
from common.tasks.text import clean, filled
from common.tasks.tokens import NextTokens

_ROLES = ("system", "user", "assistant")
Message = dict[str, str]


class Chat(NextTokens):
    """Predict the assistant's turns of a dialogue.

    A record has `messages`, a list of {"role", "content"}; or, if the plan has templates, one turn of the user and
    one of the assistant.

    Args:
        section: of the plan.
        tokenizer: of the base model.

    Raises:
        InputError: the tokenizer has no chat template, or one whose earlier turns depend on later ones.
    """

    def __init__(self, section: TaskSection, tokenizer: Any) -> None:
        super().__init__(tokenizer, section.max_length)
        if not tokenizer.chat_template:
            raise InputError(
                'task.kind = "chat": the base model\'s tokenizer has no chat template; use a base trained '
                'for chat, or kind = "causal-lm" with template and response'
            )
        self._template = section.template
        self._response = section.response
        hello = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
        try:
            _, labels = self._tokens([*hello, *hello])
        except (UnusableError, TemplateError, ValueError, TypeError, KeyError):
            labels = []
        if sum(label != IGNORED for label in labels) < len(hello):
            raise InputError(
                'task.kind = "chat": the chat template of the base model\'s tokenizer does not show where the '
                "assistant's turns begin and end"
            )

    def encode(self, record: Mapping[str, Any]) -> tuple[Example, ...]:
        """Encode the dialogue; the labels are the tokens of the assistant's turns, with the end of each turn."""
        try:
            ids, labels = self._tokens(self._messages(record), self.max_length)
        except (TemplateError, TypeError, KeyError):
            raise UnusableError("the chat template does not accept its messages") from None
        return self.example(ids, labels)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a dialogue up to the start of the assistant's next turn."""
        return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    def _messages(self, record: Mapping[str, Any]) -> list[Message]:
        if self._template is not None and self._response is not None:
            return [
                {"role": "user", "content": filled(self._template, record).strip()},
                {"role": "assistant", "content": filled(self._response, record).strip()},
            ]
        messages = record.get("messages")
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise UnusableError("its 'messages' is not a list of messages with a role and a content")
        return [{"role": item["role"], "content": clean(item["content"]).strip()} for item in messages]

    def _tokens(self, messages: Sequence[Message], enough: int | None = None) -> tuple[list[int], list[int]]:
        """Tokenize a dialogue turn by turn: a turn is what the template adds to the earlier turns.

        Args:
            messages: of the dialogue.
            enough: stop after the turn that reaches so many tokens. The time grows with the square of the turns.

        Raises:
            UnusableError: there is no turn of the assistant, or a turn changes the tokens of earlier turns.
        """
        ids: list[int] = []
        labels: list[int] = []
        for count, message in enumerate(messages, start=1):
            if message["role"] != "assistant":
                continue
            prompt = self.prompt(messages[: count - 1])
            whole = list(self.tokenizer.apply_chat_template(messages[:count], return_dict=False))
            if prompt[: len(ids)] != ids or whole[: len(prompt)] != prompt:
                raise UnusableError("the chat template changes earlier turns when there is a later one")
            labels += [IGNORED] * (len(prompt) - len(ids)) + whole[len(prompt) :]
            ids = whole
            if enough is not None and len(ids) >= enough:
                break
        if not ids:
            raise UnusableError("it has no turn of the assistant")
        return ids, labels


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in _ROLES
        and isinstance(value.get("content"), str)
        and bool(value["content"].strip())
    )

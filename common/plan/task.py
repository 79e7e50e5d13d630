"""The `[task]` section of a plan. It imports no PyTorch: the relay and the ServerApp read plans too."""

from __future__ import annotations

import string
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from common.settings import Section

Kind = Literal["causal-lm", "chat", "classification", "question-answering", "seq2seq"]
Label = Annotated[str, Field(min_length=1, max_length=200)]

# A template that repeats fields multiplies a record's text, and with it the time and memory of its encoding.
MOST_FIELDS = 64
MOST_REPETITIONS = 4

# The keys that a kind of task allows besides `kind` and `max_length`, and those of them that it requires.
_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "causal-lm": ({"template", "response"}, {"template"}),
    "chat": ({"template", "response"}, set()),
    "classification": (
        {"template", "labels", "label_field", "other_label", "pooling", "pooling_layers"},
        {"template", "labels"},
    ),
    "question-answering": ({"stride", "no_answer"}, set()),
    "seq2seq": ({"template", "response"}, {"template", "response"}),
}
_DEFAULTS = {
    "causal-lm": {"template": "{text}"},
    "classification": {"template": "{text}", "label_field": "label"},
}


class TaskSection(Section):
    """How a record becomes an example, and which loss is trained."""

    kind: Kind = "causal-lm"
    """causal-lm: predict each next token of a text. chat: predict the assistant's turns of a dialogue.
    classification: predict the class of a text. question-answering: find the answer to a question in its context.
    seq2seq: generate a text from another, with an encoder-decoder."""
    max_length: int = Field(default=256, ge=2, le=1_000_000)
    """The most tokens of an example; longer ones are truncated. question-answering splits them into windows
    instead."""
    template: str | None = Field(default=None, max_length=4096, examples=["{text}"])
    """The text of a record, its fields in braces; "{text}" if it is missing. chat: the user's turn of a record
    without `messages`. seq2seq: the input text. A record without one of the fields contributes nothing."""
    response: str | None = Field(default=None, max_length=4096, examples=["{response}"])
    """The text to generate from that of `template`; the loss is then computed on it alone. chat: the assistant's
    turn."""
    labels: list[Label] | None = Field(default=None, min_length=2, max_length=10_000, examples=[["no", "yes"]])
    """For classification: the names of all classes. They are never collected from the records."""
    label_field: str | None = Field(default=None, min_length=1, examples=["label"])
    """For classification: the field with the class, a text or an integer; "label" if it is missing."""
    other_label: str | None = Field(default=None, min_length=1, examples=["other"])
    """For classification: the one of `labels` that stands for every label not listed, to train one class against
    the rest. If it is missing, a record with another label contributes nothing."""
    pooling: Literal["mean", "first", "last"] | None = Field(default=None, examples=["mean"])
    """For classification: a text's vector is the mean over its tokens, or that of the first or last token. If it
    is missing: the last for causal models, the mean for all others."""
    pooling_layers: int | None = Field(default=None, ge=1, le=1000, examples=[3])
    """For classification: the number of last layers that are pooled, with their vectors concatenated (Devlin et
    al. 2019, https://arxiv.org/abs/1810.04805, section 5.3); the last layer alone if it is missing."""
    stride: int | None = Field(default=None, ge=1, examples=[64])
    """For question-answering: tokens that neighbouring windows of a context share; a quarter of max_length if it
    is missing."""
    no_answer: bool | None = Field(default=None, examples=[False])
    """For question-answering: whether a question may have no answer in its context."""

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        """Fill in the defaults of the kind; a chat needs no template."""
        if not isinstance(values, dict):
            return values
        kind = values.get("kind", "causal-lm")
        return {**_DEFAULTS.get(kind, {}), **values} if isinstance(kind, str) else values

    @field_validator("template", "response")
    @classmethod
    def _names_plain_fields(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(value)]
        except ValueError as error:
            raise ValueError(f"not a template: {error}") from None
        fields = [part for part in parts if part[0] is not None]
        if not fields:
            raise ValueError("it should name at least one field, as in '{text}'")
        for name, spec, conversion in fields:
            # Attribute and index access would reach beyond the record's own fields.
            if not name or not name.isidentifier() or spec or conversion:
                raise ValueError(f"{name!r} should be the plain name of a field")
        names = Counter(name for name, _, _ in fields)
        most, times = names.most_common(1)[0]
        if times > MOST_REPETITIONS:
            raise ValueError(f"it contains {{{most}}} {times} times; at most {MOST_REPETITIONS} are allowed")
        if len(fields) > MOST_FIELDS:
            raise ValueError(f"it contains {len(fields)} fields; at most {MOST_FIELDS} are allowed")
        return value

    @field_validator("labels")
    @classmethod
    def _labels_are_distinct(cls, value: list[str] | None) -> list[str] | None:
        for label in value or []:
            if label != label.strip():
                raise ValueError(f"{label!r} should not begin or end with a space")
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"{next(label for label in value if value.count(label) > 1)!r} occurs twice")
        return value

    @property
    def is_dialogue(self) -> bool:
        """Whether a model answers as a turn of a dialogue."""
        return self.kind == "chat"

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the base model reads with an encoder and writes with a decoder."""
        return self.kind == "seq2seq"

    @property
    def is_pooled(self) -> bool:
        """Whether the head has one output vector for each text; otherwise for each token, or there is no head."""
        return self.kind == "classification"

    @property
    def has_windows(self) -> bool:
        """Whether a long record becomes several examples; otherwise it is cut."""
        return self.kind == "question-answering"

    @model_validator(mode="after")
    def _has_the_keys_of_its_kind(self) -> TaskSection:
        allowed, needed = _KEYS[self.kind]
        given = {name for name in TaskSection.model_fields if getattr(self, name) is not None}
        given -= {"kind", "max_length"}
        if foreign := min(given - allowed, default=None):
            raise ValueError(f'{foreign} does not belong to kind = "{self.kind}"')
        if missing := min(needed - given, default=None):
            raise ValueError(f'{missing} is missing: kind = "{self.kind}" needs it')
        if self.kind == "chat" and (self.template is None) != (self.response is None):
            raise ValueError("template and response belong together: the user's turn and the assistant's")
        if self.other_label is not None and self.other_label not in (self.labels or []):
            raise ValueError(f"other_label = {self.other_label!r} should be one of labels")
        if self.stride is not None and self.stride >= self.max_length // 2:
            raise ValueError(f"stride = {self.stride} should be below half of max_length = {self.max_length}")
        return self

    @property
    def fields(self) -> list[str]:
        """The fields that a record must have, in the order in which they are used."""
        fixed = {
            "chat": ["messages"] if self.template is None else [],
            "question-answering": ["question", "context"],
        }
        templates = (self.template or "") + (self.response or "")
        used = [name for _, name, _, _ in string.Formatter().parse(templates) if name]
        used += [self.label_field] if self.label_field else []
        return list(dict.fromkeys(fixed.get(self.kind, []) + used))

    @property
    def headline(self) -> tuple[str, bool]:
        """The main metric of the task, and whether higher is better."""
        best = {"classification": ("accuracy", True), "question-answering": ("f1", True)}
        return best.get(self.kind, ("perplexity", False))

    @property
    def head_outputs(self) -> int | None:
        """Number of outputs of the head, for each text or each token; None without a head."""
        if self.kind == "classification":
            return len(self.labels or [])
        return 2 if self.kind == "question-answering" else None

"""Tiny real models of every kind with the demo's tokenizer, plans on them, and records for every task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from common.model.model import LoraModel
from common.plan.plan import Plan
from common.plan.task import TaskSection
from tests.conftest import DEMO_BASE

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
LABELS = ["no", "yes", "perhaps"]
WORDS = [
    "parcel",
    "clinic",
    "order",
    "bank",
    "doctor",
    "open",
    "late",
    "money",
    "ticket",
    "number",
    "please",
    "Tuesday",
]

SECTIONS: dict[str, dict[str, Any]] = {
    "causal-lm": {"max_length": 32},
    "chat": {"max_length": 40},
    "classification": {"max_length": 32, "labels": LABELS},
    "question-answering": {"max_length": 24, "stride": 8},
    "seq2seq": {"max_length": 24, "template": "{question}", "response": "{text}"},
}
# Which base serves which task; two for a head, one that reads both ways and one that reads from left to right.
PAIRS = [
    ("causal-lm", "decoder"),
    ("chat", "decoder"),
    ("classification", "encoder"),
    ("classification", "decoder"),
    ("question-answering", "encoder"),
    ("question-answering", "decoder"),
    ("seq2seq", "both"),
]


def section(kind: str) -> TaskSection:
    return TaskSection(kind=kind, **SECTIONS[kind])


def record(number: int) -> dict[str, Any]:
    """A record that every task can read; another one for each number, of another length."""
    words = [WORDS[(number * 5 + at) % len(WORDS)] for at in range(4 + number % 7)]
    text = " ".join(words)
    question = f"Where is {words[-1]}?"
    return {
        "text": text,
        "label": LABELS[number % 3],
        "question": question,
        "context": " ".join([text] * 3),  # several windows
        "answers": [words[2]],
        "answer_starts": [text.index(words[2])],
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": " ".join(words[:3])}],
    }


def randomized(plan: Plan, deviation: float, seed: int) -> LoraModel:
    """A model none of whose trained tensors is zero: normal numbers of a standard deviation."""
    model = LoraModel(plan.model.base, plan)
    draw = np.random.default_rng(seed)
    model.load({name: draw.normal(0, deviation, shape).astype(np.float32) for name, shape in model.shapes.items()})
    return model


def save_base(kind: str, folder: Path, width: int = 32) -> Path:
    """A folder with a randomly initialized model of two narrow layers."""
    tokenizer: Any = AutoTokenizer.from_pretrained(DEMO_BASE)
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    _MODELS[kind](len(tokenizer), tokenizer, width).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _decoder(vocabulary: int, tokenizer: Any, width: int) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=3 * width // 2,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _encoder(vocabulary: int, tokenizer: Any, width: int) -> Any:
    return BertModel(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=3 * width // 2,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id or 0,
        )
    )


def _both(vocabulary: int, tokenizer: Any, width: int) -> Any:
    padding = tokenizer.pad_token_id or 0
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=width,
            d_kv=8,
            d_ff=40,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.1,
            pad_token_id=padding,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=padding,
        )
    )


_MODELS: dict[str, Callable[[int, Any, int], Any]] = {"decoder": _decoder, "encoder": _encoder, "both": _both}

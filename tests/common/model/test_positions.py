"""How many tokens a model has positions for: what it says must be what it can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from common.model.model import positions_of

SMALL = {"vocab_size": 20, "max_position_embeddings": 40}
ENCODER = {**SMALL, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
BOTH = {
    "vocab_size": 20,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
}
MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**ENCODER)),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**ENCODER, pad_token_id=1)),
    "roberta, padding 5": lambda: transformers.RobertaModel(transformers.RobertaConfig(**ENCODER, pad_token_id=5)),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(**SMALL, dim=8, n_layers=1, n_heads=2, hidden_dim=8)
    ),
    "gpt2": lambda: transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=20, n_positions=40, n_embd=8, n_layer=1, n_head=2)
    ),
    "opt": lambda: transformers.OPTModel(
        transformers.OPTConfig(
            **SMALL, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8, word_embed_proj_dim=8
        )
    ),
    "bart": lambda: transformers.BartModel(transformers.BartConfig(**BOTH, max_position_embeddings=40)),
    "led": lambda: transformers.LEDModel(
        transformers.LEDConfig(
            **BOTH, max_encoder_position_embeddings=48, max_decoder_position_embeddings=40, attention_window=8
        )
    ),
}


def can_read(model: Any, tokens: int) -> bool:
    try:
        with torch.no_grad():
            model(input_ids=torch.full((1, tokens), 7))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("name", MODELS)
def test_a_model_reads_as_many_tokens_as_it_has_positions_and_not_one_more(name: str) -> None:
    model = MODELS[name]().eval()
    positions = positions_of(model)
    assert positions is not None
    assert positions == max(tokens for tokens in range(1, 60) if can_read(model, tokens))


def test_a_model_of_relative_positions_has_no_limit() -> None:
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    assert positions_of(transformers.T5Model(config)) is None

"""Randomly initialized models and tokens for benchmarks without data: time does not depend on the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from common.model.heads import HeadedModel
from common.tasks import Example

VOCABULARY = 8192


class Tokens:
    """The attributes of a tokenizer that a task's loss needs."""

    pad_token_id = 0
    eos_token_id = 2
    bos_token_id = 1
    model_input_names = ("input_ids", "attention_mask")


def llama_config(hidden: int, layers: int, values: Mapping[str, int] | None = None) -> LlamaConfig:
    """The configuration of a Llama with heads of size 64; `values` override other keys."""
    usual = {
        "vocab_size": VOCABULARY,
        "intermediate_size": 8 * hidden // 3,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
    }
    return LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, **usual | dict(values or {}))


def lora_model(config: LlamaConfig, method: str = "ffa", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A generating Llama with LoRA of rank 8 on all linear layers, in training mode.

    Args:
        config: its configuration.
        method: "ffa" trains B alone, "fedavg" A and B.
        dtype: of the frozen base; trained parameters are float32.
    """
    torch.manual_seed(0)
    model: torch.nn.Module = _with_lora(LlamaForCausalLM(config).to(dtype), "CAUSAL_LM").train()
    _train_only(model, method)
    return model


def headed_model(config: LlamaConfig, outputs: int) -> HeadedModel:
    """A Llama with LoRA of rank 8 on all linear layers and a head on the mean of its vectors, in training mode."""
    torch.manual_seed(0)
    model = HeadedModel(_with_lora(LlamaModel(config), "FEATURE_EXTRACTION"), outputs, "mean").train()
    _train_only(model, "ffa")
    return model


def trained_of(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that a model trains, by name."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def random_examples(count: int, tokens: int, generator: torch.Generator, classes: int = 0) -> list[Example]:
    """Examples of one length with random tokens, and as labels a class each or their tokens."""
    ids = torch.randint(3, VOCABULARY, (count, tokens), generator=generator).tolist()
    if not classes:
        return [Example(tuple(row), tuple(row)) for row in ids]
    labels = torch.randint(classes, (count,), generator=generator).tolist()
    return [Example(tuple(row), (label,)) for row, label in zip(ids, labels, strict=True)]


def _with_lora(base: Any, task_type: str) -> Any:
    return get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type=task_type))


def _train_only(model: torch.nn.Module, method: str) -> None:
    for name, parameter in model.named_parameters():
        trained = ".lora_B." in name or name.startswith("head.") or (method == "fedavg" and ".lora_A." in name)
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()

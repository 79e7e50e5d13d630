"""Tiny real models of four architectures with LoRA layers, and a task for each kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from client.vault.records.encoded import Unit
from client.vault.training.dp_sgd import by_name, clipped_sum
from client.vault.training.per_example import PerExampleGradients
from common.tasks import Example

VOCABULARY = 97
ARCHITECTURES = ["llama", "gpt2", "bert", "distilbert"]
_TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "bert": ["query", "value", "dense"],
    "distilbert": ["q_lin", "v_lin", "lin1", "lin2"],
}


def lora_model(architecture: str, *, dtype: torch.dtype = torch.float32, checkpointing: bool = False) -> Any:
    """A model in training mode; only its LoRA tensors can be trained, and none of them is zero."""
    torch.manual_seed(0)
    base = _BASES[architecture]().to(dtype)
    config = LoraConfig(
        r=3, lora_alpha=6, target_modules=_TARGETS.get(architecture, "all-linear"), task_type="FEATURE_EXTRACTION"
    )
    model = get_peft_model(base, config)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        model.enable_input_require_grads()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model.train()


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    """The LoRA tensors by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    )


def _gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        )
    )  # fmt: skip


def _bert() -> Any:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=64, num_labels=5,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def _distilbert() -> Any:
    return DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=VOCABULARY, dim=32, hidden_dim=40, n_layers=2, n_heads=4,
            max_position_embeddings=64, num_labels=5,
            dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0,
        )
    )  # fmt: skip


_BASES = {"llama": _llama, "gpt2": _gpt2, "bert": _bert, "distilbert": _distilbert}


class TinyTask:
    """Next tokens for the decoders; for the encoders the class that the first label names."""

    def __init__(self, architecture: str) -> None:
        self._decoder = architecture in ("llama", "gpt2")

    def losses(self, model: Any, examples: Sequence[Example], length: int) -> torch.Tensor:
        ids = torch.zeros(len(examples), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            ids[row, : len(example)] = torch.tensor(example.input_ids)
            mask[row, : len(example)] = 1
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        if not self._decoder:
            classes = torch.tensor([example.labels[0] % 5 for example in examples])
            return F.cross_entropy(logits, classes, reduction="none")
        tokens = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        counted = mask[:, 1:]
        return (tokens * counted).sum(1) / counted.sum(1)

    def encode(self, record: Any) -> tuple[Example, ...]:
        raise AssertionError("not used here")

    def synthetic(self, count: int) -> list[Example]:
        return examples(count, seed=1)

    def predict(self, model: Any, records: Sequence[Any]) -> list[Any]:
        raise AssertionError("not used here")

    def metrics(self, predictions: Sequence[Any]) -> dict[str, float]:
        raise AssertionError("not used here")

    def score(self, predictions: Sequence[Any]) -> float:
        raise AssertionError("not used here")


def users(counts: list[int], seed: int = 0) -> list[Unit]:
    """Users of so many records."""
    return [tuple(examples(count, seed=1000 * seed + place)) for place, count in enumerate(counts)]


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    """All numbers of all tensors."""
    return torch.cat([gradients[name].double().flatten() for name in sorted(gradients)])


def singles(sample: Sequence[Example | None]) -> list[Unit]:
    """Each example as a unit of its own; None as a unit that cannot contribute."""
    return [() if example is None else (example,) for example in sample]


def examples(count: int, seed: int = 0, longest: int = 24) -> list[Example]:
    """Random examples of random lengths."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(2, longest + 1, (1,), generator=generator))
        ids = tuple(torch.randint(0, VOCABULARY, (length,), generator=generator).tolist())
        made.append(Example(ids, ids))
    return made


class Poisoned(TinyTask):
    """Gives examples that begin with token 0 a loss that is not finite."""

    def __init__(self, value: float) -> None:
        super().__init__("llama")
        self._value = value

    def losses(self, model: Any, batch: Any, length: int) -> torch.Tensor:
        bad = torch.tensor([example.input_ids[0] == 0 for example in batch])
        return super().losses(model, batch, length) * torch.where(bad, self._value, 1.0)


def sum_of(model: Any, task: TinyTask, sample: list[Example | None], bound: float, tokens: int = 256) -> dict:
    with PerExampleGradients(model, trained(model)) as gradients:
        total = clipped_sum(gradients, task, singles(sample), bound, tokens)
    return by_name(in_float(total, bound), trained(model))


def in_float(total: torch.Tensor, bound: float) -> torch.Tensor:
    """The integers of a clipped sum, multiples of 2⁻⁴⁰·C, as the sum."""
    assert total.dtype == torch.int64
    return total.double() * (2.0**-40 * bound)


def norm(gradients: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))

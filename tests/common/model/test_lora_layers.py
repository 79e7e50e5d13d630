"""The LoRA layers of a base model: their names, their first values, and what they change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from common.adapter.adapter import initial
from common.model.model import LoraModel
from tests.common.model.loading import IDS, loaded, logits, other_base
from tests.conftest import MakePlan


def test_tensors_have_the_names_that_peft_gives_them(make_plan: MakePlan, tiny_base: Path) -> None:
    model = loaded(make_plan, tiny_base)
    peft = get_peft_model_state_dict(model.module)
    assert {name: tuple(tensor.shape) for name, tensor in peft.items()} == model.shapes
    # Two layers of seven linear maps, A and B of each.
    assert len(model.shapes) == 28


def test_a_is_the_shared_draw_and_b_is_zero_so_that_the_base_is_unchanged(
    make_plan: MakePlan, tiny_base: Path
) -> None:
    model = loaded(make_plan, tiny_base, lora={"seed": 7})
    start = model.adapter(complete=True)
    shared = initial(model.shapes, 7)
    assert set(start) == set(shared)
    assert all((start[name] == shared[name]).all() for name in shared)
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(logits(model), base(input_ids=IDS).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("method", "halves"), [("ffa", {"lora_B"}), ("fedavg", {"lora_A", "lora_B"})])
def test_what_the_method_trains_is_all_that_can_be_trained(
    make_plan: MakePlan, tiny_base: Path, method: str, halves: set[str]
) -> None:
    model = loaded(make_plan, tiny_base, aggregation={"method": method})
    trainable = {
        name.replace(".default.", ".")
        for name, parameter in model.module.named_parameters()
        if parameter.requires_grad
    }
    wanted = {name for name in model.shapes if name.split(".")[-2] in halves}
    assert trainable == wanted
    assert set(model.trained_shapes) == set(model.trained_parameters()) == set(model.adapter()) == wanted
    assert set(model.adapter(complete=True)) == set(model.shapes)


def test_an_adapter_that_is_loaded_comes_back_and_changes_the_model(make_plan: MakePlan, tiny_base: Path) -> None:
    model = loaded(make_plan, tiny_base, aggregation={"method": "fedavg"})
    before = logits(model)
    random = np.random.default_rng(0)
    adapter = {name: random.normal(size=shape).astype(np.float32) for name, shape in model.shapes.items()}
    model.load(adapter)
    back = model.adapter()
    assert all((back[name] == adapter[name]).all() for name in adapter)
    assert (logits(model) - before).abs().max() > 1e-3
    model.load({})
    assert torch.equal(logits(model), before)


def test_tensors_that_an_adapter_does_not_name_get_their_first_values(
    make_plan: MakePlan, tiny_base: Path
) -> None:
    model = loaded(make_plan, tiny_base)
    first = model.adapter(complete=True)
    name, other = [name for name in model.shapes if ".lora_B." in name][:2]
    model.load({other: np.ones(model.shapes[other], np.float32)})
    model.load({name: np.ones(model.shapes[name], np.float32)})
    now = model.adapter(complete=True)
    assert (now.pop(name) == 1).all()
    assert all((tensor == first[key]).all() for key, tensor in now.items())


def test_an_adapter_that_was_taken_is_a_copy(make_plan: MakePlan, tiny_base: Path) -> None:
    model = loaded(make_plan, tiny_base)
    taken = model.adapter()
    name = next(iter(taken))
    taken[name] += 1
    assert not model.adapter()[name].any()


def test_lora_tensors_are_in_single_precision_on_a_base_in_half(make_plan: MakePlan, tiny_base: Path) -> None:
    model = LoraModel(str(tiny_base), make_plan(model={"dtype": "bfloat16"}))
    assert model.module.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.trained_parameters().values()} == {torch.float32}


def test_updates_are_scaled_by_alpha_over_rank(make_plan: MakePlan, tiny_base: Path) -> None:
    doubled = loaded(make_plan, tiny_base, lora={"alpha": 8.0})
    plain = loaded(make_plan, tiny_base, lora={"alpha": 4.0})
    ones = {name: np.full(shape, 0.01, np.float32) for name, shape in plain.trained_shapes.items()}
    plain.load({name: 2 * tensor for name, tensor in ones.items()})
    doubled.load(ones)
    torch.testing.assert_close(logits(doubled), logits(plain), atol=1e-5, rtol=1e-5)


DROPPING: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            attention_dropout=0.5,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=2048,
            n_embd=16,
            n_layer=1,
            n_head=2,
            resid_pdrop=0.5,
            embd_pdrop=0.5,
            attn_pdrop=0.5,
            bos_token_id=1,
            eos_token_id=2,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=2048,
            hidden_size=16,
            ffn_dim=16,
            word_embed_proj_dim=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            dropout=0.5,
            layerdrop=0.5,
        )
    ),
}


@pytest.mark.parametrize("architecture", DROPPING)
def test_a_base_with_dropout_in_its_configuration_drops_nothing(
    make_plan: MakePlan, tmp_path: Path, architecture: str
) -> None:
    torch.manual_seed(0)
    model = loaded(make_plan, other_base(DROPPING[architecture](), tmp_path / architecture))
    assert model.module.training
    assert not [
        module for module in model.module.modules() if isinstance(module, torch.nn.Dropout) and module.p > 0
    ]
    first = logits(model)
    assert all(torch.equal(logits(model), first) for _ in range(8))

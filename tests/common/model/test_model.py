"""The base model and its LoRA layers: the same base for everybody, and only what fits it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from common.adapter.adapter import initial
from common.errors import InputError
from common.model.base import fingerprint, load_base
from common.model.model import LoraModel
from common.plan.task import TaskSection
from tests.conftest import DEMO_BASE, MakePlan

IDS = torch.arange(10, 26)[None]


def copied(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    return folder


def weights_changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def loaded(make_plan: MakePlan, base: Path, **sections: Any) -> LoraModel:
    return LoraModel(str(base), make_plan(model={"base": str(base)}, **sections))


def refusal(make_plan: MakePlan, base: Path | str, **sections: Any) -> str:
    with pytest.raises(InputError) as caught:
        LoraModel(str(base), make_plan(model={"base": str(base)}, **sections))
    text = str(caught.value)
    assert "\n" not in text
    return text


def logits(model: LoraModel) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.module(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return out


def other_base(model: Any, folder: Path) -> Path:
    """A folder with another architecture and the demo's tokenizer, whose vocabulary has 2048 entries."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_BASE).save_pretrained(folder)
    return folder


# The fingerprint


def test_two_loads_of_one_base_have_one_fingerprint(tiny_base: Path) -> None:
    first, second = (fingerprint(load_base(str(tiny_base), "float32", TaskSection())[0]) for _ in range(2))
    assert first == second
    assert len(bytes.fromhex(first)) == 32


def test_the_fingerprint_is_that_of_the_base_without_the_adapter(make_plan: MakePlan, tiny_base: Path) -> None:
    bare = fingerprint(load_base(str(tiny_base), "float32", TaskSection())[0])
    assert loaded(make_plan, tiny_base).fingerprint == bare
    assert loaded(make_plan, tiny_base, lora={"rank": 5, "seed": 3}).fingerprint == bare


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
def test_one_weight_changed_by_its_last_bit_changes_the_fingerprint(
    tiny_base: Path, tmp_path: Path, name: str
) -> None:
    folder = copied(tiny_base, tmp_path / "changed")

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        flat = tensors[name].view(-1)
        flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))

    weights_changed(folder, nudge)
    assert fingerprint(load_base(str(folder), "float32", TaskSection())[0]) != fingerprint(
        load_base(str(tiny_base), "float32", TaskSection())[0]
    )


def test_another_precision_is_another_fingerprint(tiny_base: Path) -> None:
    assert fingerprint(load_base(str(tiny_base), "bfloat16", TaskSection())[0]) != fingerprint(
        load_base(str(tiny_base), "float32", TaskSection())[0]
    )


# What does not fit


@pytest.mark.parametrize(
    "modules", [["lm_head"], ["embed_tokens"], ["q_proj", "lm_head"], ["embed_tokens", "v_proj"]], ids=str
)
def test_embeddings_and_the_output_layer_cannot_be_adapted(
    make_plan: MakePlan, tiny_base: Path, modules: list[str]
) -> None:
    text = refusal(make_plan, tiny_base, lora={"target_modules": modules})
    assert text.startswith(f"lora.target_modules = {modules!r}: ")


def test_an_output_layer_of_its_own_cannot_be_adapted_either(make_plan: MakePlan, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    base = other_base(LlamaForCausalLM(config), tmp_path / "untied")
    assert "lora.target_modules" in refusal(make_plan, base, lora={"target_modules": ["lm_head"]})
    assert not any("lm_head" in name for name in loaded(make_plan, base).shapes)


@pytest.mark.parametrize(
    "modules", [["nonsense"], ["q_proj", "nonsense"], [], ["input_layernorm"], ["mlp"]], ids=str
)
def test_target_modules_that_the_base_does_not_have_are_refused(
    make_plan: MakePlan, tiny_base: Path, modules: list[str]
) -> None:
    text = refusal(make_plan, tiny_base, lora={"target_modules": modules})
    assert text.startswith(f"lora.target_modules = {modules!r}: ")


def test_more_tokens_than_positions_are_refused(make_plan: MakePlan, tiny_base: Path) -> None:
    # An example is padded by at least one token to a multiple of 16, and the base has 64 positions.
    text = refusal(make_plan, tiny_base, task={"max_length": 64})
    assert "task.max_length = 64: it should be at most 63" in text
    assert loaded(make_plan, tiny_base, task={"max_length": 63}).shapes


def test_a_tokenizer_with_more_tokens_than_the_base_is_refused(
    make_plan: MakePlan, tiny_base: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_base, tmp_path / "grown")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(folder)
    assert "2049 tokens" in refusal(make_plan, folder)


@pytest.mark.parametrize("name", ["missing", "no-such/model", "a b/c"])
def test_a_base_that_is_not_there_is_named(make_plan: MakePlan, tmp_path: Path, name: str) -> None:
    base = str(tmp_path / name) if name == "missing" else name
    assert refusal(make_plan, base).startswith(f"model.base = {base!r}: ")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def reconfigured(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


BROKEN: dict[str, Callable[[Path], Any]] = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights cut off": cut,
    "weights of another shape": lambda folder: reconfigured(folder, hidden_size=64),
    "weights of a layer missing": lambda folder: reconfigured(folder, num_hidden_layers=3),
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "configuration cut off": lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"),
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("token*")],
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_base_is_named(make_plan: MakePlan, tiny_base: Path, tmp_path: Path, case: str) -> None:
    folder = copied(tiny_base, tmp_path / "broken")
    BROKEN[case](folder)
    assert refusal(make_plan, folder).startswith(f"model.base = {str(folder)!r}: ")


def test_an_encoder_which_sees_the_tokens_to_be_predicted_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=2048, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    base = other_base(BertForMaskedLM(config), tmp_path / "encoder")
    assert refusal(make_plan, base).startswith(f"model.base = {str(base)!r}: ")


# The LoRA layers


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

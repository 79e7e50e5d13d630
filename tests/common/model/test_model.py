"""The base model: the same for everybody, and only what fits it is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from common.model.base import fingerprint, load_base
from common.plan.task import TaskSection
from tests.common.model.loading import copied, loaded, other_base, refusal
from tests.conftest import MakePlan


def weights_changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


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

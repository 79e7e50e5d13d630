"""Adapter folders of others: they are read from safetensors, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from common.errors import InputError
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.results.adapter_folder import load_folder, merge
from tests.conftest import MakePlan


@pytest.fixture
def adapter_folder(tmp_path: Path, tiny_base: Path, make_plan: MakePlan) -> Path:
    plan: Plan = make_plan()
    model = LoraModel(str(tiny_base), plan)
    model.module.peft_config["default"].base_model_name_or_path = str(tiny_base)
    model.module.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_folder(folder)
    with pytest.raises(InputError):
        merge(folder, folder.parent / "merged")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_adapter_is_read_from_safetensors_only(adapter_folder: Path) -> None:
    load_folder(adapter_folder)
    weights = adapter_folder / "adapter_model.safetensors"
    (adapter_folder / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    weights.unlink()
    assert "safetensors only" in refused(adapter_folder)


CONFIGURATIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a module to import": lambda values: {**values, "megatron_config": {"a": 1}, "megatron_core": "evil"},
    "another kind": lambda values: {**values, "peft_type": "PREFIX_TUNING"},
    "an unknown kind": lambda values: {**values, "peft_type": "EVIL"},
    "other layers": lambda values: {**values, "target_modules": ["nothing"]},
    "another rank": lambda values: {**values, "r": 7},
    "a rank that is none": lambda values: {**values, "r": "x"},
    "a list": lambda values: [values],
    "nothing": lambda values: {},
}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_a_configuration_of_an_adapter_that_is_none_is_refused_in_one_line(
    what: str, adapter_folder: Path
) -> None:
    path = adapter_folder / "adapter_config.json"
    path.write_text(json.dumps(CONFIGURATIONS[what](json.loads(path.read_text()))))
    refused(adapter_folder)


def test_an_adapter_that_is_not_finite_or_no_adapter_is_refused(adapter_folder: Path) -> None:
    weights = adapter_folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, weights)
    assert "not finite" in refused(adapter_folder)
    weights.write_bytes(b"garbage")
    refused(adapter_folder)

"""Base models that are changed, loaded, refused and asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
)

from common.errors import InputError
from common.model.model import LoraModel
from tests.conftest import DEMO_BASE, MakePlan

IDS = torch.arange(10, 26)[None]


def copied(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    return folder


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

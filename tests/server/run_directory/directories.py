"""Run directories, and what is put into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.adapter.adapter import Adapter
from common.errors import InputError
from common.plan.plan import Plan
from common.run.round_line import RoundLine
from common.settings import validate
from server.run_directory.run_directory import RunDirectory, RunInfo, ensure_free

A, B = "q_proj.lora_A.weight", "q_proj.lora_B.weight"
SHAPES = {A: (2, 6), B: (4, 2)}
PLAN = validate(
    {
        "name": "triage",
        "model": {"base": "base"},
        "training": {"rounds": 3, "batch_size": 8},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
    },
    Plan,
    "the test's plan",
)
INFO = RunInfo("triage-2026-11-22-1a2b3c4d", PLAN.digest(), "/models/base", "ab" * 32, SHAPES, private=True)


def adapter(value: float) -> Adapter:
    """With ffa, which is the default, B alone travels."""
    return {B: np.full(SHAPES[B], value, np.float32)}


def created(path: Path) -> RunDirectory:
    return RunDirectory.create(path, INFO, PLAN, adapter(0))


def line(number: int) -> RoundLine:
    organizations = {"asked": ["a", "b"], "answered": ["a"], "refused": {"b": "budget"}}
    return RoundLine(number, organizations, 10 * number, 20, 0.5, {"perplexity": 3.25})


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        ensure_free(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text

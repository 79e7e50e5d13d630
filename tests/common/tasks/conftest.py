"""Tiny bases, one folder of each kind, and plans on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from common.plan.plan import Plan
from tests.common.tasks.bases import SECTIONS, save_base
from tests.conftest import MakePlan

MakeTaskPlan = Callable[..., Plan]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by kind of base: "decoder", "encoder", "both"."""
    return {kind: save_base(kind, tmp_path_factory.mktemp(kind)) for kind in ("decoder", "encoder", "both")}


@pytest.fixture(scope="session")
def tokenizer(bases: dict[str, Path]) -> Any:
    return AutoTokenizer.from_pretrained(bases["decoder"])


@pytest.fixture
def task_plan(make_plan: MakePlan, bases: dict[str, Path]) -> MakeTaskPlan:
    """A plan for a kind of task on a kind of base; keywords replace keys of its sections."""

    def make(kind: str, base: str, **sections: Any) -> Plan:
        task = {"kind": kind, **SECTIONS[kind], **sections.pop("task", {})}
        return make_plan(model={"base": str(bases[base])}, task=task, **sections)

    return make

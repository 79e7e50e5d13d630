"""What tests of rounds share: nodes that are looked at without delay, and runs that begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import server.rounds.exchange
import server.rounds.roster
import server.rounds.waiting
from common.model.model import LoraModel
from server.run.start import start_run
from server.run_directory.run_directory import RunDirectory
from tests.conftest import MakePlan
from tests.server.rounds.nodes import Nodes
from tests.server.rounds.scripted import SHAPES


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    for name in ("_ASK_AGAIN_SECONDS", "_CHALLENGE_SECONDS"):
        monkeypatch.setattr(server.rounds.roster, name, 0.3)
    monkeypatch.setattr(server.rounds.roster, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(server.rounds.exchange, "_RETURN_SECONDS", 0.3)
    monkeypatch.setattr(server.rounds.waiting, "_SETTLE_SECONDS", 0.3)
    for module in (server.rounds.exchange, server.rounds.waiting):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    return Nodes()


@pytest.fixture
def start(make_plan: MakePlan, tiny_base: Path, tmp_path: Path) -> Callable[..., RunDirectory]:
    def make(**sections: Any) -> RunDirectory:
        plan = make_plan(**sections)
        model = LoraModel(str(tiny_base), plan)
        directory = start_run(plan, tmp_path / plan.name, private=True, model=model)
        SHAPES.clear()
        SHAPES.update(directory.trained_shapes)
        return directory

    return make

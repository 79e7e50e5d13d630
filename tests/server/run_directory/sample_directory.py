"""The sample run on disk, made without training: what the privacy report is read from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from common.keys.statement_key import StatementKey
from common.plan.plan import Plan
from common.protocol.statement import Statement
from common.run.round_line import Participation, RoundLine
from server.run_directory.run_directory import RunDirectory, RunInfo
from tests.common.report.sample_run import PLAN, RUN, SHAPES


def make_run(
    path: Path,
    statements: list[Statement],
    keys: dict[str, StatementKey],
    *,
    private: bool = True,
    plan: Plan = PLAN,
) -> RunDirectory:
    """A run directory in which every organization answered every round."""
    info = RunInfo(RUN, plan.digest(), "/models/base", "cd" * 32, SHAPES, private)
    directory = RunDirectory.create(path, info, plan, {"q_proj.lora_B.weight": np.zeros((4, 2), np.float32)})
    names = [item.organization for item in statements]
    for number in range(plan.training.rounds + 1):
        organizations: Participation = {"asked": names, "answered": names, "refused": {}} if number else {}
        metrics = {"perplexity": 40 / (1 + number) + 5, "accuracy": 0.5}
        directory.round_log.append(RoundLine(number, organizations, 1000, 2000, 1.5, metrics))
    for item in statements:
        directory.statements.write(item)
    for name, key in keys.items():
        directory.statements.write_key(name, key.public)
    return directory


def change(directory: RunDirectory, name: str, **values: Any) -> None:
    """Write other values into a stored statement, as somebody with an editor would."""
    path = directory.path / "privacy" / "statements" / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

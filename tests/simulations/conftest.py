"""Fixtures for tests of simulations: records of three organizations, and plans for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.plan.plan import Plan
from common.records import Record
from tests.conftest import MakePlan
from tests.simulations.runs import MakeSimulated, records


@pytest.fixture
def private_records() -> dict[str, list[Record]]:
    return {"north": records(60, 1), "south": records(40, 2), "west": records(50, 3)}


@pytest.fixture
def public_file(tmp_path: Path) -> str:
    path = tmp_path / "public.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records(20, 9)), encoding="utf-8")
    return str(path)


@pytest.fixture
def plan_of(make_plan: MakePlan, public_file: str) -> MakeSimulated:
    def make(**sections: Any) -> Plan:
        simulation = {"noise_seed": 5, **sections.pop("simulation", {})}
        return make_plan(evaluation={"data": public_file}, simulation=simulation, **sections)

    return make

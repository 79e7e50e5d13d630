"""Simulations that are interrupted or complete, and resumed: the same adapter at the same cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.vault.ledger.ledger import Ledger
from common.adapter.adapter import to_bytes
from common.records import Record
from server.tracking.observer import Observer
from simulations.simulate import SimulationResult, simulate
from tests.simulations.runs import AGGREGATIONS, MakeSimulated, final_adapter


class Stop(Observer):
    """Interrupts the run like Ctrl-C: after some answers, in the middle of a round."""

    def __init__(self, answers: int) -> None:
        self.left = answers

    def answered(self, organization: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


# The number of answers before the interruption: in the first round, between rounds, in the second round.
CUTS = [
    *[(1, "ffa"), (2, "fedavg"), (5, "fedavgm")],
    *(
        pytest.param(*cut, marks=pytest.mark.slow)
        for cut in [(3, "ffa"), (5, "fedavg"), (4, "fedadam"), (5, "stack")]
    ),
]


@pytest.fixture(scope="module")
def whole_runs() -> dict[str, SimulationResult]:
    """Runs that were not interrupted, by aggregation; filled by the tests."""
    return {}


@pytest.mark.parametrize(("answers", "aggregation"), CUTS)
def test_an_interrupted_run_resumes_to_the_same_adapter_at_the_same_cost(
    plan_of: MakeSimulated,
    private_records: dict[str, list[Record]],
    whole_runs: dict[str, SimulationResult],
    tmp_path: Path,
    answers: int,
    aggregation: str,
) -> None:
    plan = plan_of(aggregation=AGGREGATIONS[aggregation])
    if aggregation not in whole_runs:
        whole_runs[aggregation] = simulate(plan, private_records, tmp_path / "whole")
    whole = whole_runs[aggregation]
    with pytest.raises(KeyboardInterrupt):
        simulate(plan, private_records, tmp_path / "cut", observer=Stop(answers))
    resumed = simulate(plan, private_records, tmp_path / "cut", resume=True)
    left, right = final_adapter(whole), final_adapter(resumed)
    assert all(np.array_equal(left[name], right[name]) for name in left)
    states = [result.directory.checkpoints.latest()[1] for result in (whole, resumed)]
    assert to_bytes(states[0].adapter) == to_bytes(states[1].adapter)
    assert to_bytes(states[0].momentum) == to_bytes(states[1].momentum)
    assert [line.round for line in resumed.directory.rounds()] == [0, 1, 2]
    for name in private_records:
        ledger = Ledger(tmp_path / "cut" / "organizations" / name / "ledger.db", name, "example")
        assert len(ledger.spent()) == 1
        assert ledger.settled_rounds(resumed.directory.info.run) == [1, 2]


def test_resuming_a_complete_run_does_nothing(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    first = simulate(plan_of(), private_records, tmp_path / "run")
    again = simulate(plan_of(), private_records, tmp_path / "run", resume=True)
    left, right = final_adapter(first), final_adapter(again)
    assert all(np.array_equal(left[name], right[name]) for name in left)
    assert len(again.directory.rounds()) == 3

"""Simulations of three organizations with synthetic records, and their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.plan.plan import Plan
from common.records import Record
from simulations.simulate import SimulationResult

WORDS = ["parcel", "account", "letter", "doctor", "window", "garden", "evening", "number"]


def records(count: int, seed: int) -> list[Record]:
    random = np.random.default_rng(seed)
    return [{"text": " ".join(random.choice(WORDS, 6))} for _ in range(count)]


MakeSimulated = Callable[..., Plan]


def final_adapter(result: SimulationResult) -> dict[str, np.ndarray]:
    return result.directory.latest_checkpoint()[1]


AGGREGATIONS: dict[str, dict[str, Any]] = {
    "ffa": {"method": "ffa"},
    "fedavg": {"method": "fedavg"},
    "fedavgm": {"server_optimizer": "fedavgm", "average": 0.9},
    "fedadam": {"method": "fedavg", "server_optimizer": "fedadam", "server_learning_rate": 0.01},
    "multi-krum": {"robust": "multi-krum", "byzantine": 1},
    "stack": {"method": "stack"},
}

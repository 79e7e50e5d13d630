"""Measure robust rules against two hostile organizations of seven, on a part of banking77 with privacy.

    python benchmarks/hostile.py [--rules NAME …] [--attacks NAME …] [--epsilon 8] [--records N]
                                 [--rounds N] [--out FILE]

Every organization is a real vault that trains and adds noise; two of them change their update before it is sent to
the server. The plans differ only in [aggregation]. Only the head is trained. Prints the accuracy on a part of the
public test set, and the number of refused updates. Updates with NaN are refused with every rule, also with the
plain mean without a screen. Results are stored (benchmarks/parts/long_runs.py). SOTTO_SHARED names the folder with
data and base model.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from parts.long_runs import ROOT, Results, banking77

from common.adapter.adapter import Adapter, from_bytes, round_shapes, to_bytes
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import Description, Participant, Release, TrainRequest
from common.protocol.statement import Statement
from common.results.evaluate import PublicEvaluation
from common.settings import validate
from server.rounds.rounds import run_rounds
from server.run.start import start_run
from server.run_directory.run_directory import RunDirectory
from server.tracking.observer import Observer
from simulations.local_grid import LocalGrid
from simulations.simulate import count_units, organizations_of, participants_of, simulated_organization

ORGANIZATIONS, HOSTILE, TEST_RECORDS = 7, 2, 749
_ROBUST: dict[str, dict[str, Any]] = {
    "mean": {},
    "median": {"robust": "median", "byzantine": HOSTILE},
    "trimmed-mean": {"robust": "trimmed-mean", "byzantine": HOSTILE},
    "multi-krum": {"robust": "multi-krum", "byzantine": HOSTILE},
}
RULES = _ROBUST | {f"{name}, no screen": {**values, "screen": False} for name, values in _ROBUST.items()}
Attack = Callable[[Adapter], Adapter]


def _large(update: Adapter) -> Adapter:
    """A random update, a hundred times as large."""
    random = np.random.default_rng()
    return {
        name: (100 * tensor.std() * random.normal(size=tensor.shape)).astype(np.float32)
        for name, tensor in update.items()
    }


def _nan(update: Adapter) -> Adapter:
    return {name: np.full_like(tensor, np.nan) for name, tensor in update.items()}


ATTACKS: dict[str, Attack | None] = {
    "none": None,
    "sign flip × 10": lambda update: {name: -10 * tensor for name, tensor in update.items()},
    "random of large norm": _large,
    "nan": _nan,
}


class Hostile:
    """An organization whose update is changed after its vault released it.

    Args:
        vault: its vault.
        directory: of the run.
        attack: the change of an update.
    """

    def __init__(self, vault: Participant, directory: RunDirectory, attack: Attack) -> None:
        self._vault, self._directory, self._attack = vault, directory, attack

    def describe(self) -> Description:
        """As the vault."""
        return self._vault.describe()

    def statement(self, run: str) -> Statement:
        """As the vault."""
        return self._vault.statement(run)

    def train(self, request: TrainRequest) -> Release:
        """The vault's release, attacked."""
        release = self._vault.train(request)
        head_only = self._directory.plan.training.is_head_alone(request.round)
        shapes = round_shapes(self._directory.trained_shapes, head_only=head_only)
        return replace(release, update=to_bytes(self._attack(from_bytes(release.update, shapes))))


def plan_of(rule: str, epsilon: float, records: int, rounds: int, folder: Path) -> Plan:
    """Write a part of the records to a folder, and return the plan with a rule."""
    plan = banking77(folder, records, TEST_RECORDS, ORGANIZATIONS)
    plan |= {
        "training": {
            **plan["training"],
            "rounds": rounds,
            "head_rounds": rounds,
            "batch_size": records // ORGANIZATIONS // 2,
            "schedule": "linear",
        },
        "federation": {"min_organizations": ORGANIZATIONS - HOSTILE},
        "aggregation": RULES[rule],
        "privacy": {**plan["privacy"], "epsilon": epsilon},
        "evaluation": {**plan["evaluation"], "every": rounds},
    }
    return validate(plan, Plan, "the benchmark's plan")


def run(rule: str, attack: str, epsilon: float, records: int, rounds: int) -> dict[str, Any]:
    """Run once in this process."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sotto-hostile-") as name:
        plan = plan_of(rule, epsilon, records, rounds, Path(name))
        parts = organizations_of(plan)
        organizations = {
            name: simulated_organization(name, plan, count_units(plan, own)) for name, own in parts.items()
        }
        model = LoraModel(plan.base_folder(), plan)
        directory = start_run(plan, Path(name) / "run", private=True, model=model)
        participants = participants_of(directory, organizations, parts, model)
        if (changed := ATTACKS[attack]) is not None:
            for node in sorted(participants)[:HOSTILE]:
                participants[node] = Hostile(participants[node], directory, changed)
        run_rounds(LocalGrid(participants), directory, PublicEvaluation(plan, model), Observer())
        lines = directory.rounds()
    return {
        "accuracy": lines[-1].metrics["accuracy"],
        "refused": sum(len(line.organizations.get("refused", {})) for line in lines),
        "seconds": round(time.monotonic() - begin, 1),
    }


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--records", type=int, default=8494)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "hostile.jsonl")
    options = parser.parse_args()
    results = Results(options.out)
    rows = []
    for rule in options.rules:
        cells = []
        for attack in options.attacks:
            scale = {"epsilon": options.epsilon, "records": options.records, "rounds": options.rounds}
            found = results.of({"rule": rule, "attack": attack, **scale}, partial(run, rule, attack, **scale))
            cells.append(
                f"{found['accuracy']:.3f}" + (f" ({found['refused']} refused)" if found["refused"] else "")
            )
        rows.append(f"| {' | '.join([rule, *cells])} |")
    print(f"| rule | {' | '.join(options.attacks)} |")
    print("|---" * (1 + len(options.attacks)) + "|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

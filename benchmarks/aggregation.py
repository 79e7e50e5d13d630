"""Compare aggregation methods on a part of banking77, with and without privacy, at equal and different ranks.

    python benchmarks/aggregation.py [--methods NAME …] [--settings none 8] [--seeds N] [--records N] [--out FILE]

The plans differ only in [aggregation] and the ranks; B·A has the same scale at all ranks. Seven simulated
organizations share the records; the head alone is trained for the first half of the rounds, then head and LoRA
layers together, so that there are A and B to average. Prints a table of the accuracy on a part of the public test
set: of the head alone, and after the last round. The seed is that of the partition; noise is fresh in every run.
Results are stored (benchmarks/parts/long_runs.py). SOTTO_SHARED names the folder with data and base model.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from parts.long_runs import ROOT, Results, banking77, simulated

ORGANIZATIONS = 7
TEST_RECORDS = 749
ROUNDS, HEAD_ROUNDS = 8, 4


def _ranks(method: str, *ranks: int) -> dict[str, dict[str, Any]]:
    uneven = {"min_rank": min(ranks)} if len(ranks) > 1 else {}
    return {
        "aggregation": {"method": method},
        "lora": {"rank": max(ranks), "alpha": 2.0 * max(ranks), **uneven},
        "simulation": {"ranks": list(ranks)},
    }


# Sections of the plan that a method changes.
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "ffa": {},
    "fedavg": _ranks("fedavg", 4),
    "svd": _ranks("svd", 4),
    "stack": _ranks("stack", 4),
    "ffa, average": {"aggregation": {"average": 0.9}},
    "ffa, fedavgm": {
        "aggregation": {"server_optimizer": "fedavgm", "server_learning_rate": 0.5, "server_momentum": 0.5}
    },
    "ffa, fedadam": {"aggregation": {"server_optimizer": "fedadam", "server_learning_rate": 0.01}},
    "ffa, fedyogi": {"aggregation": {"server_optimizer": "fedyogi", "server_learning_rate": 0.01}},
    "ffa, fedadagrad": {"aggregation": {"server_optimizer": "fedadagrad", "server_learning_rate": 0.03}},
    "ffa, median": {"aggregation": {"robust": "median", "byzantine": 2}},
    "ffa, trimmed mean": {"aggregation": {"robust": "trimmed-mean", "byzantine": 2}},
    "ffa, multi-Krum": {"aggregation": {"robust": "multi-krum", "byzantine": 2}},
    "svd, rank 8": _ranks("svd", 8),
    "svd, rank 16": _ranks("svd", 16),
    "svd, ranks 4, 8, 16": _ranks("svd", 4, 8, 16),
    "stack, ranks 4, 8, 16": _ranks("stack", 4, 8, 16),
}


def plan_of(method: str, setting: str, seed: int, records: int, folder: Path) -> dict[str, Any]:
    """Write a part of the records to a folder, and return the plan of a run."""
    plan = banking77(folder, records, TEST_RECORDS, ORGANIZATIONS)
    plan |= {
        "lora": {"rank": 4, "alpha": 8.0, "target_modules": ["query", "value"]},
        "training": {
            "rounds": ROUNDS,
            "head_rounds": HEAD_ROUNDS,
            "local_steps": 2,
            "batch_size": min(200, records // ORGANIZATIONS // 2),
            "optimizer": "sgd",
            # Without privacy gradients are not clipped: with a rate of 1, runs diverged.
            "learning_rate": 0.3 if setting == "none" else 1.0,
            "head_learning_rate": 50.0,
        },
        "federation": {"min_organizations": ORGANIZATIONS},
        "evaluation": {**plan["evaluation"], "every": HEAD_ROUNDS},
        "simulation": {**plan["simulation"], "seed": seed},
    }
    for name, values in METHODS[method].items():
        plan[name] = {**plan.get(name, {}), **values}
    if setting != "none":
        plan["privacy"]["epsilon"] = float(setting)
    return plan


def run(method: str, setting: str, seed: int, records: int) -> dict[str, Any]:
    """Run one simulation; return accuracies, and bytes per round and organization."""
    with tempfile.TemporaryDirectory(prefix="sotto-aggregation-") as name:
        plan = plan_of(method, setting, seed, records, Path(name))
        rounds, seconds = simulated(plan, private=setting != "none")
    return {
        "head": rounds[HEAD_ROUNDS]["metrics"]["accuracy"],
        "accuracy": rounds[-1]["metrics"]["accuracy"],
        "bytes_up": rounds[-1]["bytes_up"] // ORGANIZATIONS,
        "seconds": seconds,
    }


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--settings", nargs="+", default=["none", "8"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--records", type=int, default=8494)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "aggregation.jsonl")
    options = parser.parse_args()
    results = Results(options.out)
    rows = []
    for setting in options.settings:
        for method in options.methods:
            runs = []
            for seed in range(options.seeds):
                case = {"method": method, "setting": setting, "seed": seed, "records": options.records}
                runs.append(results.of(case, partial(run, method, setting, seed, options.records)))
            rows.append(row(method, setting, runs))
    print("| method | ε | runs | head alone | accuracy | kB up per round and organization | seconds per run |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def row(method: str, setting: str, runs: list[dict[str, Any]]) -> str:
    """The table row of one method and setting: means, and the smallest and largest accuracy."""
    found = [one["accuracy"] for one in runs]
    spread = f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else ""
    cells = (
        method,
        setting,
        len(runs),
        f"{statistics.mean(one['head'] for one in runs):.3f}",
        f"{statistics.mean(found):.3f}{spread}",
        f"{runs[0]['bytes_up'] / 1e3:.0f}",
        f"{statistics.mean(one['seconds'] for one in runs):.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()

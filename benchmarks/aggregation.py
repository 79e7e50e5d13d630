"""Methods of aggregation side by side on a part of banking77, with and without privacy.

    python benchmarks/aggregation.py [--methods NAME …] [--settings none 8] [--seeds N] [--records N] [--out FILE]

The plans are the same but for [aggregation]. Seven simulated organizations share so many records; the head is
trained alone for the first half of the rounds, then head and LoRA layers together, so that there are A and B to be
averaged. Prints a table of accuracy on a part of the public test set. Each run that ends is a line of the results
file at once: a benchmark that was stopped goes on where it was, with the same command. The seed is that of the
partition; noise is fresh in every run. Data and base model are found through the variable SOTTO_SHARED.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

ROOT = Path(__file__).parent.parent
METHODS: dict[str, dict[str, Any]] = {
    "ffa": {},
    "fedavg": {"method": "fedavg"},
    "svd": {"method": "svd"},
    "stack": {"method": "stack"},
    "ffa, average": {"average": 0.9},
    "ffa, fedavgm": {"server_optimizer": "fedavgm", "server_learning_rate": 0.5, "server_momentum": 0.5},
    "ffa, fedadam": {"server_optimizer": "fedadam", "server_learning_rate": 0.01},
    "ffa, fedyogi": {"server_optimizer": "fedyogi", "server_learning_rate": 0.01},
    "ffa, fedadagrad": {"server_optimizer": "fedadagrad", "server_learning_rate": 0.03},
    "ffa, median": {"robust": "median", "byzantine": 2},
    "ffa, trimmed mean": {"robust": "trimmed-mean", "byzantine": 2},
    "ffa, multi-Krum": {"robust": "multi-krum", "byzantine": 2},
}
ORGANIZATIONS = 7
TEST_RECORDS = 400


def plan_of(method: str, setting: str, seed: int, records: int, folder: Path) -> dict[str, Any]:
    """The plan of a run, written beside its part of the records."""
    shared = Path(os.environ["SOTTO_SHARED"])
    for name, count in (("train", records), ("test", TEST_RECORDS)):
        lines = (shared / "data" / "banking77" / f"{name}.jsonl").read_text().splitlines()
        # Every so many lines: the file may be sorted by class.
        chosen = lines[:: max(1, len(lines) // count)][:count]
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in chosen))
    example = tomllib.loads((ROOT / "examples" / "intents-banking77" / "plan.toml").read_text())
    plan = {
        **example,
        "model": {"base": str(shared / "models" / "minilm-l6")},
        "training": {
            "rounds": 12,
            "head_rounds": 6,
            "local_steps": 2,
            "batch_size": min(256, records // ORGANIZATIONS // 2),
            "optimizer": "sgd",
            "learning_rate": 1.0,
            "head_learning_rate": 50.0,
        },
        "federation": {"min_organizations": ORGANIZATIONS},
        "aggregation": METHODS[method],
        "evaluation": {"data": "test.jsonl", "every": 12},
        "simulation": {"data": "train.jsonl", "organizations": ORGANIZATIONS, "seed": seed},
    }
    if setting != "none":
        plan["privacy"]["epsilon"] = float(setting)
    (folder / "plan.toml").write_text(tomli_w.dumps(plan))
    return plan


def run(method: str, setting: str, seed: int, records: int) -> dict[str, Any]:
    """One simulation in a process of its own: accuracy, bytes of a round and organization, and what it took."""
    with tempfile.TemporaryDirectory(prefix="sotto-aggregation-") as name:
        folder = Path(name)
        plan = plan_of(method, setting, seed, records, folder)
        begin = time.monotonic()
        more = ["--no-privacy"] if setting == "none" else []
        command = [sys.executable, "-m", "sotto", "simulate", "plan.toml", "--out", "run", *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)
        rounds = [json.loads(line) for line in (folder / "run" / "rounds.jsonl").read_text().splitlines()]
        return {
            "method": method,
            "setting": setting,
            "seed": seed,
            "records": records,
            "accuracy": rounds[-1]["metrics"]["accuracy"],
            "bytes_up": rounds[-1]["bytes_up"] // ORGANIZATIONS,
            "rounds": plan["training"]["rounds"],
            "seconds": round(time.monotonic() - begin, 1),
        }


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--settings", nargs="+", default=["none", "8"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--records", type=int, default=2800)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "aggregation.jsonl")
    options = parser.parse_args()
    if "SOTTO_SHARED" not in os.environ:
        sys.exit(
            "the environment variable SOTTO_SHARED should name the folder with data/banking77, models/minilm-l6"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.is_file() else []
    done = {
        (one["method"], one["setting"], one["seed"]): one
        for one in map(json.loads, lines)
        if one["records"] == options.records
    }
    for setting in options.settings:
        for method in options.methods:
            for seed in range(options.seeds):
                if (method, setting, seed) not in done:
                    made = done[method, setting, seed] = run(method, setting, seed, options.records)
                    with options.out.open("a") as file:
                        file.write(json.dumps(made) + "\n")
    print("| method | ε | runs | accuracy | kB up, a round and organization | seconds a run |")
    print("|---|---|---|---|---|---|")
    for setting in options.settings:
        for method in options.methods:
            print(row(method, setting, [done[method, setting, seed] for seed in range(options.seeds)]))


def row(method: str, setting: str, runs: list[dict[str, Any]]) -> str:
    """The runs of one method and setting: means, and the least and the greatest accuracy."""
    found = [one["accuracy"] for one in runs]
    spread = f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else ""
    seconds = statistics.mean(one["seconds"] for one in runs)
    cells = (
        method,
        setting,
        len(runs),
        f"{statistics.mean(found):.3f}{spread}",
        f"{runs[0]['bytes_up'] / 1e3:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} | {seconds:.0f} |"


if __name__ == "__main__":
    main()

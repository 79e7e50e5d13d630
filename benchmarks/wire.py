"""Measure the cost of fewer bits on the wire: one plan with each pair of number formats, same samples and noise.

    python benchmarks/wire.py [--method ffa|fedavg] [--rounds N] [--batch N] [--seeds N] [--pairs UP/DOWN …]

Simulates three organizations that train a small Llama on restaurant descriptions (E2E) at ε = 8 and prints a
table: bytes per round and organization, up and down together, including everything besides the tensors; their
share of A and B in float32, sent in both directions, without anything else; and the evaluation loss on public
records (the logarithm of the perplexity), relative to that of the first pair with the same seed. Model and data
are read from the folder in the environment variable SOTTO_SHARED, else from `../shared`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.plan.plan import Plan
from common.records import Record, read_records
from common.run.traffic import traffic
from common.settings import validate
from simulations.partition import partition
from simulations.simulate import simulate

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("SOTTO_SHARED", ROOT.parent / "shared")).absolute()
# Formats of the update and of the adapter.
PAIRS = ["float32/float32", "bfloat16/bfloat16", "int8/int8", "int4/int8", "int4/int4"]
TRAINING_RECORDS, PUBLIC_RECORDS = 6_000, 100


def plan_for(options: argparse.Namespace, seed: int, public: Path, pair: tuple[str, str]) -> Plan:
    """The plan with one pair of formats."""
    values: dict[str, Any] = {
        "name": "wire",
        "model": {"base": str(SHARED / "models" / "stories260k")},
        "task": {"kind": "causal-lm", "max_length": 63, "template": "{response}"},
        "lora": {"rank": options.rank, "alpha": 2.0 * options.rank},
        "training": {
            "rounds": options.rounds,
            "local_steps": 2,
            "batch_size": options.batch,
            "learning_rate": options.rate,
        },
        "aggregation": {"method": options.method},
        "wire": {"update": pair[0], "adapter": pair[1]},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
        "evaluation": {"data": str(public), "every": options.rounds},
        "simulation": {"organizations": 3, "seed": seed, "noise_seed": seed},
    }
    return validate(values, Plan, "the benchmark's plan")


def run(plan: Plan, records: Mapping[str, list[Record]], folder: Path) -> dict[str, float]:
    """Run once; return bytes per round and organization, their share of A and B in float32, and losses."""
    directory = simulate(plan, records, folder).directory
    rounds = directory.rounds()
    moved = traffic(rounds, directory.info.shapes)
    requests = sum(len(line.organizations.get("asked", [])) for line in rounds)
    return {
        "bytes": (moved.up + moved.down) / requests,
        "share": moved.share,
        "before": math.log(rounds[0].metrics["perplexity"]),
        "loss": math.log(rounds[-1].metrics["perplexity"]),
    }


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["ffa", "fedavg"], default="ffa")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pairs", nargs="+", metavar="UP/DOWN", default=PAIRS)
    options = parser.parse_args()
    pairs = [(up, down) for up, down in (text.split("/") for text in options.pairs)]
    train = read_records(SHARED / "data" / "e2e" / "train.jsonl.gz")[:TRAINING_RECORDS]
    print(
        "| update | adapter | bytes per round and organization | share | evaluation loss | relative to float32 |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="sotto-wire-") as name:
        folder = Path(name)
        public = folder / "public.jsonl"
        test = read_records(SHARED / "data" / "e2e" / "test.jsonl")
        chosen = test[:: len(test) // PUBLIC_RECORDS][:PUBLIC_RECORDS]
        public.write_text("".join(json.dumps(record) + "\n" for record in chosen))
        plain: list[float] = []
        for pair in pairs:
            runs = []
            for seed in range(options.seeds):
                plan = plan_for(options, seed, public, pair)
                records = partition(train, plan.simulation)
                runs.append(run(plan, records, folder / f"{pair[0]}-{pair[1]}-{seed}"))
            losses = [one["loss"] for one in runs]
            plain = plain or losses
            print(row(pair, runs, plain), flush=True)
    print(f"\nbefore the run: {runs[0]['before']:.4f}; {options.seeds} run(s) of each")


def row(pair: tuple[str, str], runs: list[dict[str, float]], plain: list[float]) -> str:
    """The table row of a pair of formats; differences are between runs with the same seed."""
    differences = [100 * (one["loss"] / other - 1) for one, other in zip(runs, plain, strict=True)]
    spread = f" ({min(differences):+.2f} to {max(differences):+.2f})" if len(runs) > 1 else ""
    loss, difference = statistics.mean(one["loss"] for one in runs), statistics.mean(differences)
    return (
        f"| {pair[0]} | {pair[1]} | {runs[0]['bytes']:,.0f} | {runs[0]['share']:.1%} | {loss:.4f} "
        f"| {difference:+.2f} %{spread} |"
    )


if __name__ == "__main__":
    main()

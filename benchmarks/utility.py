"""Measure the quality of the examples' models without privacy, at ε = 8 and at ε = 3, over seeds.

    python benchmarks/utility.py [--examples NAME …] [--settings none 8 3] [--arrangements federated central]
                                 [--seeds N] [--out FILE]

Simulates the plan of each example for each setting and seed (of the partition; noise is fresh in every run) and
prints a table of the task's headline metric on the public test set. A plan `plan-epsilon-3.toml` beside
`plan.toml` is used for ε = 3, since a smaller ε needs other steps. "central" is one organization with all records,
whose batch is that of all organizations together: the difference is the cost of not sharing records. Results are
stored (benchmarks/parts/long_runs.py). The hyper-parameters of the plans were tuned on these test sets; ε
does not include that.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tomllib
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from parts.long_runs import ROOT, Results, simulated

from common.plan.plan import Plan
from common.settings import validate

EXAMPLES = ["sentiment-sst2", "intents-banking77", "news-thucnews", "restaurants-e2e", "questions-squad"]


@dataclass(frozen=True)
class Case:
    """One run of the benchmark; equal cases are run once.

    Attributes:
        example: name of its folder.
        arrangement: "federated" or "central".
        setting: "none" for no privacy, else ε.
        seed: of the partition.
    """

    example: str
    arrangement: str
    setting: str
    seed: int


def plan_of(case: Case) -> dict[str, Any]:
    """The example's plan, adapted to a case, with absolute paths."""
    example, setting = case.example, case.setting
    folder = ROOT / "examples" / example
    own = folder / f"plan-epsilon-{setting}.toml"
    plan = tomllib.loads((own if own.is_file() else folder / "plan.toml").read_text())
    if setting != "none":
        plan["privacy"]["epsilon"] = float(setting)
    plan["simulation"]["seed"] = case.seed
    if case.arrangement == "central":
        plan["training"]["batch_size"] *= plan["simulation"]["organizations"]
        plan["simulation"] |= {"organizations": 1, "partition": "iid"}
        plan.setdefault("federation", {})["min_organizations"] = 1
    for section, key in (("model", "base"), ("evaluation", "data"), ("simulation", "data")):
        plan[section][key] = os.path.expandvars(plan[section][key])
    plan["evaluation"]["every"] = plan["training"]["rounds"]
    return plan


def run(case: Case) -> dict[str, Any]:
    """Run one simulation; return the first and the last line of its rounds, and its time."""
    plan = plan_of(case)
    rounds, seconds = simulated(plan, private=case.setting != "none")
    training, organizations = plan["training"], plan["simulation"]["organizations"]
    return {
        "seconds": seconds,
        "examples": organizations * training["rounds"] * training["local_steps"] * training["batch_size"],
        "headline": validate(plan, Plan, "plan.toml").task.headline[0],
        "before": rounds[0]["metrics"],
        "after": rounds[-1]["metrics"],
    }


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", choices=EXAMPLES, default=EXAMPLES)
    parser.add_argument("--settings", nargs="+", default=["none", "8", "3"])
    parser.add_argument("--arrangements", nargs="+", choices=["federated", "central"], default=["federated"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "utility.jsonl")
    options = parser.parse_args()
    results = Results(options.out)
    kinds = list(itertools.product(options.examples, options.arrangements, options.settings))
    rows = []
    for example, arrangement, setting in kinds:
        cases = [Case(example, arrangement, setting, seed) for seed in range(options.seeds)]
        rows.append(row(cases[0], [results.of(asdict(case), partial(run, case)) for case in cases]))
    print("| example | records | ε | runs | metric | before | after | seconds per run |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def row(case: Case, runs: list[dict[str, Any]]) -> str:
    """The table row of one setting: means, and the smallest and largest value."""
    metric = runs[0]["headline"]
    before, after = ([one[when][metric] for one in runs] for when in ("before", "after"))
    spread = f" ({min(after):.3f} to {max(after):.3f})" if len(after) > 1 else ""
    seconds = statistics.mean(one["seconds"] for one in runs)
    cells = (case.example, case.arrangement, case.setting, len(runs), metric, f"{statistics.mean(before):.3f}")
    return f"| {' | '.join(map(str, cells))} | {statistics.mean(after):.3f}{spread} | {seconds:.0f} |"


if __name__ == "__main__":
    main()

"""How good the examples' models are, and what privacy costs them: without it, at ε = 8 and at ε = 3, over seeds.

    python benchmarks/utility.py [--examples NAME …] [--settings none 8 3] [--seeds N] [--out FILE]

Simulates the plan of each example for each setting and seed (of the partition; noise is fresh in every run) and
prints a table of accuracy on the public test set. A plan `plan-epsilon-3.toml` beside `plan.toml` is taken for
ε = 3, since less ε asks for other steps. Each run that ends is a line of the results file at once: a benchmark
that was stopped goes on where it was, with the same command. The hyper-parameters of the plans were chosen while
looking at these test sets; that choice is not in ε.
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
EXAMPLES = ["intents-banking77"]


def plan_of(example: str, setting: str, seed: int, base: Path) -> dict[str, Any]:
    """The example's plan for a setting and a seed, with its paths made absolute."""
    folder = ROOT / "examples" / example
    own = folder / f"plan-epsilon-{setting}.toml"
    plan = tomllib.loads((own if own.is_file() else folder / "plan.toml").read_text())
    if setting != "none":
        plan["privacy"]["epsilon"] = float(setting)
    plan["simulation"]["seed"] = seed
    for section, key in (("model", "base"), ("evaluation", "data"), ("simulation", "data")):
        plan[section][key] = os.path.expandvars(plan[section][key])
    plan["evaluation"]["every"] = plan["training"]["rounds"]
    (base / "plan.toml").write_text(tomli_w.dumps(plan))
    return plan


def run(example: str, setting: str, seed: int) -> dict[str, Any]:
    """One simulation in a process of its own: the last line of its rounds, and what it took."""
    with tempfile.TemporaryDirectory(prefix="sotto-utility-") as name:
        folder = Path(name)
        plan = plan_of(example, setting, seed, folder)
        more = ["--no-privacy"] if setting == "none" else []
        begin = time.monotonic()
        command = [sys.executable, "-m", "sotto", "simulate", "plan.toml", "--out", "run", *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)
        rounds = [json.loads(line) for line in (folder / "run" / "rounds.jsonl").read_text().splitlines()]
        training = plan["training"]
        return {
            "example": example,
            "setting": setting,
            "seed": seed,
            "seconds": round(time.monotonic() - begin, 1),
            "examples": training["rounds"] * training["local_steps"] * training["batch_size"],
            "before": rounds[0]["metrics"],
            "after": rounds[-1]["metrics"],
        }


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", choices=EXAMPLES, default=EXAMPLES)
    parser.add_argument("--settings", nargs="+", default=["none", "8", "3"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "utility.jsonl")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.is_file() else []
    done = {(one["example"], one["setting"], one["seed"]): one for one in map(json.loads, lines)}
    for example in options.examples:
        for setting in options.settings:
            for seed in range(options.seeds):
                if (example, setting, seed) not in done:
                    made = done[example, setting, seed] = run(example, setting, seed)
                    with options.out.open("a") as file:
                        file.write(json.dumps(made) + "\n")
    print("| example | ε | runs | accuracy before | accuracy | macro F1 | seconds a run |")
    print("|---|---|---|---|---|---|---|")
    for example in options.examples:
        for setting in options.settings:
            print(row(example, setting, [done[example, setting, seed] for seed in range(options.seeds)]))


def row(example: str, setting: str, runs: list[dict[str, Any]]) -> str:
    """The runs of one setting as a row of the table: means, and the least and the greatest accuracy."""
    after = [one["after"]["accuracy"] for one in runs]
    spread = f" ({min(after):.3f} to {max(after):.3f})" if len(after) > 1 else ""
    before, f1, seconds = (
        statistics.mean(values)
        for values in (
            [one["before"]["accuracy"] for one in runs],
            [one["after"]["macro_f1"] for one in runs],
            [one["seconds"] for one in runs],
        )
    )
    cells = (example, setting, len(runs), f"{before:.3f}", f"{statistics.mean(after):.3f}{spread}", f"{f1:.3f}")
    return f"| {' | '.join(map(str, cells))} | {seconds:.0f} |"


if __name__ == "__main__":
    main()

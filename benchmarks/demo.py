"""Measure the embedded demo: together with privacy, without privacy, and each organization alone.

    .venv/bin/python benchmarks/demo.py [--out DIR] [--seeds 1]

Every run has the same plan: rounds, steps, batch, optimizer, ε and δ. "Alone" is a run of one organization
with its own records only. The share is the improvement in log-perplexity of the private run, on the public test
of all four dialects, divided by that of the run without privacy. Takes about as long as six demos.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from common.plan.plan import Plan
from common.records import Record
from simulations.demo.prepare import prepare_demo
from simulations.simulate import organizations_of, simulate


def alone(plan: Plan) -> Plan:
    """The same plan for one organization."""
    return plan.model_copy(update={"federation": plan.federation.model_copy(update={"min_organizations": 1})})


def run(plan: Plan, records: dict[str, list[Record]], out: Path, private: bool) -> tuple[float, float, float]:
    """Run once; return log-perplexity before and after, and seconds."""
    start = time.monotonic()
    result = simulate(plan, records, out, private=private)
    lines = result.directory.rounds()
    return lines[0].metrics["loss"], lines[-1].metrics["loss"], time.monotonic() - start


def main() -> None:
    """Run everything and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=None, help="a new directory for all runs")
    arguments.add_argument("--seeds", type=int, default=1, help="private runs, each with fresh noise")
    chosen = arguments.parse_args()
    out = chosen.out or Path(tempfile.mkdtemp(prefix="sotto-demo-"))
    plan = prepare_demo(out / "data")
    records = organizations_of(plan)
    privacy, training = plan.privacy, plan.training
    print(f"torch {torch.__version__}; ε = {privacy.epsilon:g}, δ = {privacy.delta:g}; runs in {out}")
    print(f"{training.rounds} rounds of {training.local_steps} steps, batch {training.batch_size}")
    print(f"{'run':28} log-perplexity   share of the gap   seconds")
    before, open_loss, seconds = run(plan, records, out / "open", private=False)
    print(f"{'base model':28} {before:14.3f}   {'0 %':>16}")
    print(f"{'together, without privacy':28} {open_loss:14.3f}   {'100 %':>16}   {seconds:7.0f}")
    gap = before - open_loss
    for number in range(chosen.seeds):
        _, loss, seconds = run(plan, records, out / f"private-{number}", private=True)
        print(f"{'together, private':28} {loss:14.3f}   {(before - loss) / gap:16.1%}   {seconds:7.0f}")
    for name, own in records.items():
        _, loss, seconds = run(alone(plan), {name: own}, out / f"alone-{name}", private=True)
        print(f"{name + ' alone, private':28} {loss:14.3f}   {(before - loss) / gap:16.1%}   {seconds:7.0f}")


if __name__ == "__main__":
    main()

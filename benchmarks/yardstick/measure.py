"""Measure the time of a whole simulation: a frozen demo, in this checkout and perhaps in another one, in turn.

    .venv/bin/python benchmarks/yardstick/measure.py [--against CHECKOUT] [--runs 3] [--rounds 12] [--busy 2]

Each run is a process of its own, from the start of Python to the report. The other checkout runs with the same
libraries. `--busy` runs it once more beside so many processes that only count. Takes as long as two demos a run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w

from common.plan.plan import Plan

ROOT = Path(__file__).resolve().parent.parent.parent
PLAN = Path(__file__).with_name("plan.toml")


def plan_of(rounds: int, folder: Path) -> Path:
    """The frozen plan with so many rounds, its paths made absolute."""
    plan = Plan.read(PLAN)
    values = plan.model_dump(mode="json", exclude_none=True)
    values["training"]["rounds"] = rounds
    values["model"]["base"] = plan.base_folder()
    values["simulation"]["data"] = str(plan.path(plan.simulation.data or ""))
    values["evaluation"]["data"] = str(plan.path(plan.evaluation.data or ""))
    path = folder / "plan.toml"
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return path


def seconds(checkout: Path, plan: Path, options: list[str]) -> float:
    """The wall time of `sotto simulate`."""
    with tempfile.TemporaryDirectory(prefix="sotto-yardstick-") as out:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-P", "-m", "sotto", "simulate", str(plan), "--out", f"{out}/run", *options],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            cwd=out,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - begin


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that count."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Print the seconds of each run, and the ratios."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--against", type=Path, default=None, help="another checkout")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--busy", type=int, default=0, help="processes beside one more run")
    arguments.add_argument("--workers", type=int, default=None)
    options = arguments.parse_args()
    own = [] if options.workers is None else ["--workers", str(options.workers)]
    pairs = []
    with tempfile.TemporaryDirectory(prefix="sotto-yardstick-") as folder:
        plan = plan_of(options.rounds, Path(folder))
        for number in range(options.runs):
            here = seconds(ROOT, plan, own)
            text = f"run {number + 1}: {here:.1f} s"
            if options.against is not None:
                there = seconds(options.against.resolve(), plan, [])
                pairs.append((there, here))
                text += f"; the other checkout {there:.1f} s, {there / here:.2f} times as long"
            print(text, flush=True)
            if options.busy and number == options.runs - 1:
                with busy(options.busy):
                    loaded = seconds(ROOT, plan, own)
                print(f"beside {options.busy} busy processes: {loaded:.1f} s, {loaded / here:.2f} times as long")
    if len(pairs) > 1:
        print(f"median ratio {statistics.median(there / here for there, here in pairs):.2f}")


if __name__ == "__main__":
    main()

"""Shared by benchmarks with many long runs: a simulation in a separate process, and stored results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

ROOT = Path(__file__).parents[2]


def shared_folder() -> Path:
    """The folder of real data sets and models, from the variable SOTTO_SHARED."""
    if "SOTTO_SHARED" not in os.environ:
        sys.exit("the environment variable SOTTO_SHARED should name the folder of data sets and models")
    return Path(os.environ["SOTTO_SHARED"])


def banking77(folder: Path, records: int, test_records: int, organizations: int) -> dict[str, Any]:
    """Write a part of banking77's records to a folder, and return the example's plan for them."""
    shared = shared_folder()
    for name, count in (("train", records), ("test", test_records)):
        lines = (shared / "data" / "banking77" / f"{name}.jsonl").read_text().splitlines()
        # Spread over the file, which may be sorted by class.
        chosen = lines[:: max(1, len(lines) // count)][:count]
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in chosen))
    example = tomllib.loads((ROOT / "examples" / "intents-banking77" / "plan.toml").read_text())
    return {
        **example,
        "model": {"base": str(shared / "models" / "minilm-l6")},
        "evaluation": {"data": str(folder / "test.jsonl")},
        "simulation": {"data": str(folder / "train.jsonl"), "organizations": organizations},
    }


def simulated(plan: Mapping[str, Any], *, private: bool) -> tuple[list[dict[str, Any]], float]:
    """Simulate a plan.

    Args:
        plan: sections of `plan.toml`; its paths are absolute.
        private: False for a run without privacy.

    Returns:
        The lines of `rounds.jsonl`, and the time in seconds.
    """
    with tempfile.TemporaryDirectory(prefix="sotto-benchmark-") as name:
        folder = Path(name)
        (folder / "plan.toml").write_text(tomli_w.dumps(plan))
        command = [sys.executable, "-m", "sotto", "simulate", "plan.toml", "--out", "run"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        begin = time.monotonic()
        subprocess.run(
            command if private else [*command, "--no-privacy"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        seconds = round(time.monotonic() - begin, 1)
        lines = (folder / "run" / "rounds.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], seconds


class Results:
    """Results by case, each appended to a file when it is available, so that a stopped benchmark can continue.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self._done: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def of(self, case: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a case; computed if no line of the file has all its values."""
        for one in self._done:
            if case.items() <= one.items():
                return one
        made = {**case, **make()}
        self._done.append(made)
        with self._path.open("a") as file:
            file.write(json.dumps(made) + "\n")
        return made

"""The benchmarks that need no data run: what they import from the project changes its name now and then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


def run(script: str, *arguments: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_its_imports_and_arguments_are_right(script: str) -> None:
    assert "usage" in run(script, "--help")


@pytest.mark.slow
def test_all_parts_of_the_gpu_benchmark_run_on_a_cpu(tmp_path: Path) -> None:
    printed = run("gpu.py", "--device", "cpu", "--small", "--runs", 1, "--json", tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    parts = ["gradients", "rows", "neighbours", "noise", "speed"]
    assert [part for part in parts if not results[part]] == []
    assert all(part in printed for part in parts)
    for row in results["gradients"]:
        assert float(row["largest relative difference"]) < (0.1 if "bf16" in row["model"] else 1e-3)
    assert results["noise"][0]["as on the CPU, bit for bit"]
    assert float(results["noise"][0]["deviation"]) == pytest.approx(1, abs=0.01)

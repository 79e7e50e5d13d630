"""Fixtures for tests of the command line: a folder with a plan and its records."""

from __future__ import annotations

import json
import os
import pty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Imported here once, so that import warnings of libraries do not appear in the output of commands.
import simulations.simulate  # noqa: F401

RECORDS = [{"text": f"Customer: where is parcel {n}?\nAgent: on its way.", "who": "ab"[n % 2]} for n in range(80)]

PLAN = """
name = "cli"
[model]
base = "{base}"
[task]
max_length = 32
[training]
rounds = {rounds}
local_steps = 1
batch_size = 10
learning_rate = 1.0
optimizer = "sgd"
[privacy]
epsilon = 8.0
delta = 1e-3
[evaluation]
data = "records.jsonl"
prompts = ["Customer: hello"]
[simulation]
data = "records.jsonl"
partition = "field"
field = "who"
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_base: Path) -> Path:
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    (tmp_path / "plan.toml").write_text(PLAN.format(base=tiny_base, rounds=1))
    return tmp_path


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Gives the following command a terminal, on which this answer is typed."""
    terminals: list[int] = []

    def give(text: str) -> None:
        ours, theirs = pty.openpty()
        terminals.append(ours)
        os.write(ours, f"{text}\n".encode())
        monkeypatch.setattr("sys.stdin", os.fdopen(theirs, encoding="utf-8"))

    yield give
    for terminal in terminals:
        os.close(terminal)

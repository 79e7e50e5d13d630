"""Exit codes, and one clear line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.files import edit
from tests.conftest import DEMO_BASE, Cli


def break_line(folder: Path) -> None:
    lines = (folder / "records.jsonl").read_text().splitlines()
    (folder / "records.jsonl").write_text("\n".join([*lines[:6], '{"text": ', *lines[6:]]))


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown key": (lambda f: edit(f, "rounds =", "round ="), "did you mean 'rounds'?"),
    "missing key": (lambda f: edit(f, "rounds = 1", ""), "training.rounds is missing"),
    "epsilon zero": (lambda f: edit(f, "epsilon = 8.0", "epsilon = 0.0"), "privacy.epsilon = 0.0"),
    "delta too large": (lambda f: edit(f, "delta = 1e-3", "delta = 0.03"), "below 1 / public_size"),
    "rank zero": (lambda f: edit(f, "[training]", "[lora]\nrank = 0\n[training]"), "lora.rank = 0"),
    "batch too large": (lambda f: edit(f, "batch_size = 10", "batch_size = 41"), "at most public_size = 40"),
    "no base": (lambda f: edit(f, 'base = "', 'base = "/nowhere'), "model.base = "),
    "broken line": (break_line, "line 7 is not JSON"),
    "empty file": (lambda f: (f / "records.jsonl").write_text(""), "holds no records"),
    "no file": (lambda f: (f / "records.jsonl").unlink(), "there is no such file"),
    "no plan": (lambda f: (f / "plan.toml").unlink(), "there is no such file"),
    "not TOML": (lambda f: (f / "plan.toml").write_text("a = = 1"), "not valid TOML"),
    "template without its field": (
        lambda f: edit(f, "max_length", 'template = "{body}"\nmax_length'),
        "the task, which needs body: its 'body' is missing",
    ),
    "no such field": (lambda f: edit(f, 'field = "who"', 'field = "whom"'), "simulation.field = 'whom'"),
    "patience without data": (
        lambda f: edit(f, '[evaluation]\ndata = "records.jsonl"', "[evaluation]\npatience = 3"),
        "evaluation: patience = 3 needs data, a file of public records to evaluate on",
    ),
    "directory in use": (lambda f: (f / "run").mkdir() or (f / "run" / "x").touch(), "is not empty"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(cli: Cli, folder: Path, mistake: str) -> None:
    make, said = MISTAKES[mistake]
    make(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, _, printed = cli("simulate", folder / "plan.toml", "--out", folder / "run")
    assert code == 2
    assert printed.startswith("error: ")
    assert said in printed
    assert len(printed.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate", "--resume"], "--resume needs --out"),
        (["evaluate", "{folder}", "--data", "{folder}/records.jsonl"], "neither a run directory"),
        (["merge", "{folder}", "--out", "{folder}/merged"], "contains no adapter"),
        (["merge", str(DEMO_BASE), "--out", "{folder}"], "is not empty"),
        (["init", "plan", "{folder}/plan.toml"], "exists already"),
        (["generate", "{folder}/nowhere", "--prompt", "x"], "neither a run directory"),
    ],
)
def test_other_commands_refuse_in_one_line(cli: Cli, folder: Path, arguments: list[str], said: str) -> None:
    code, _, printed = cli(*(argument.format(folder=folder) for argument in arguments))
    assert code == 2
    assert said in printed
    assert len(printed.strip().splitlines()) == 1


@pytest.mark.parametrize("package", ["client", "server"])
def test_a_foreign_package_named_common_is_refused(package: str, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(DEMO_BASE.parents[2])!r}]; import {package}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode != 0
    assert "is not Sotto's own" in ended.stderr

"""The command line as a user meets it: what it prints, its exit codes, and one clear line for each mistake."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sotto
from common.plan import Plan
from tests.conftest import DEMO_BASE

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

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sotto", *map(str, arguments)])
        code = 0
        try:
            sotto.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def folder(tmp_path: Path, tiny_base: Path) -> Path:
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    (tmp_path / "plan.toml").write_text(PLAN.format(base=tiny_base, rounds=1))
    return tmp_path


def test_simulate_merge_evaluate_generate(cli: Run, folder: Path) -> None:
    out = folder / "run"
    code, printed, _ = cli("simulate", folder / "plan.toml", "--out", out)
    assert code == 0
    for expected in ("perplexity on the public data", "noise σ", "before", "after", str(out / "adapter")):
        assert expected in printed
    metrics = {}
    for target in (out, out / "adapter"):
        code, printed, _ = cli("evaluate", target, "--data", folder / "records.jsonl", "--json")
        assert code == 0
        metrics[target] = json.loads(printed)
    last = json.loads((out / "rounds.jsonl").read_text().splitlines()[-1])["metrics"]
    assert metrics[out]["perplexity"] == pytest.approx(last["perplexity"], rel=1e-4)
    code, printed, _ = cli("merge", out, "--out", folder / "merged")
    assert code == 0
    assert "merged" in printed
    code, printed, _ = cli("evaluate", folder / "merged", "--data", folder / "records.jsonl", "--json")
    assert json.loads(printed)["perplexity"] == pytest.approx(last["perplexity"], rel=1e-3)
    code, printed, _ = cli("generate", folder / "merged", "--prompt", "Customer:", "--max-new-tokens", 5, "--json")
    assert code == 0
    assert list(json.loads(printed)) == ["Customer:"]


def test_by_default_a_run_lies_in_a_folder_of_its_own_name(
    cli: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    code, _, _ = cli("simulate", "plan.toml")
    assert code == 0
    (made,) = (folder / "runs").iterdir()
    assert json.loads((made / "run.json").read_text())["run"] == made.name
    assert made.name.startswith("cli-")


def test_init_plan_writes_a_plan_that_can_be_read(cli: Run, tmp_path: Path) -> None:
    code, _, _ = cli("init", "plan", tmp_path / "new" / "plan.toml")
    assert code == 0
    assert Plan.read(tmp_path / "new" / "plan.toml").privacy.epsilon == 8.0


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "plan.toml").read_text()
    assert old in text
    (folder / "plan.toml").write_text(text.replace(old, new))


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
        "has the fields of task.template: body",
    ),
    "no such field": (lambda f: edit(f, 'field = "who"', 'field = "whom"'), "simulation.field = 'whom'"),
    "directory in use": (lambda f: (f / "run").mkdir() or (f / "run" / "x").touch(), "is not empty"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(cli: Run, folder: Path, mistake: str) -> None:
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
        (["merge", "{folder}", "--out", "{folder}/merged"], "holds no adapter"),
        (["merge", str(DEMO_BASE), "--out", "{folder}"], "is not empty"),
        (["init", "plan", "{folder}/plan.toml"], "exists already"),
        (["generate", "{folder}/nowhere", "--prompt", "x"], "neither a run directory"),
    ],
)
def test_other_commands_refuse_in_one_line(cli: Run, folder: Path, arguments: list[str], said: str) -> None:
    code, _, printed = cli(*(argument.format(folder=folder) for argument in arguments))
    assert code == 2
    assert said in printed
    assert len(printed.strip().splitlines()) == 1


def test_control_c_leaves_a_run_that_resume_continues(cli: Run, folder: Path) -> None:
    edit(folder, "rounds = 1", "rounds = 400")
    out = folder / "run"
    command = [sys.executable, "-m", "sotto", "simulate", str(folder / "plan.toml"), "--out", str(out)]
    # A test run in a shell's background ignores the signal, and its children would inherit that.
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "round-0002").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopped; continue with: sotto simulate {folder / 'plan.toml'} --out {out} --resume" in errors
    assert "Traceback" not in errors
    reached = len(list((out / "checkpoints").glob("round-????")))
    assert 3 <= reached < 400
    code, _, printed = cli("simulate", folder / "plan.toml", "--out", out, "--no-privacy", "--resume")
    assert code == 2
    assert "begun with privacy" in printed


@pytest.mark.parametrize("package", ["client", "server"])
def test_a_foreign_package_named_common_is_refused(package: str, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(DEMO_BASE.parents[2])!r}]; import {package}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode != 0
    assert "is not Sotto's own" in ended.stderr

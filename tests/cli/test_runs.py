"""Commands that train, merge, evaluate and generate: what they print and write."""

from __future__ import annotations

import html
import json
import signal
import sys
from pathlib import Path

import pytest

from common.plan.plan import Plan
from tests.cli.files import edit
from tests.conftest import Cli
from tests.programs.start import start
from tests.waiting import LONG, wait_until


def test_simulate_merge_evaluate_generate(cli: Cli, folder: Path) -> None:
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


def test_a_run_that_stopped_early_is_complete_and_reports_it(cli: Cli, folder: Path) -> None:
    text = (folder / "plan.toml").read_text().replace("rounds = 1\n", "rounds = 4\n")
    # So small a step that no prediction changes: an equal metric is not better.
    text = text.replace("learning_rate = 1.0", "learning_rate = 1e-30")
    (folder / "plan.toml").write_text(text.replace("[evaluation]", "[evaluation]\npatience = 2"))
    out = folder / "run"
    said = (
        "The run stopped early, after round 2 of 4: no better perplexity for 2 evaluations in a row. "
        "The result is the adapter of round 0: no round bettered the base model's perplexity on the public data. "
        "All 4 rounds were charged before the first one and stay charged."
    )
    for more in ([], ["--resume"]):
        code, printed, _ = cli("simulate", folder / "plan.toml", "--out", out, *more)
        assert code == 0
        assert said in " ".join(printed.split())
        assert len((out / "rounds.jsonl").read_text().splitlines()) == 3
    card = (out / "adapter" / "README.md").read_text()
    assert said in card
    assert "| rounds × local steps | 4 × 1, stopped early after round 2 |" in card
    metrics = json.loads((out / "rounds.jsonl").read_text().splitlines()[0])["metrics"]
    assert f"| perplexity | {metrics['perplexity']:.4g} | {metrics['perplexity']:.4g} |" in card
    assert said in html.unescape((out / "privacy" / "report.html").read_text())
    code, printed, _ = cli("evaluate", out, "--data", folder / "records.jsonl", "--json")
    assert json.loads(printed)["perplexity"] == pytest.approx(metrics["perplexity"], rel=1e-4)


def test_the_default_run_directory_has_the_name_of_the_run(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    code, _, _ = cli("simulate", "plan.toml")
    assert code == 0
    (made,) = (folder / "runs").iterdir()
    assert json.loads((made / "run.json").read_text())["run"] == made.name
    assert made.name.startswith("cli-")


def test_init_plan_writes_a_plan_that_can_be_read(cli: Cli, tmp_path: Path) -> None:
    code, _, _ = cli("init", "plan", tmp_path / "new" / "plan.toml")
    assert code == 0
    assert Plan.read(tmp_path / "new" / "plan.toml").privacy.epsilon == 8.0


def test_resume_continues_a_run_after_control_c(cli: Cli, folder: Path) -> None:
    edit(folder, "rounds = 1", "rounds = 400")
    out = folder / "run"
    command = [sys.executable, "-m", "sotto", "simulate", str(folder / "plan.toml"), "--out", str(out)]
    printed_to = folder / "errors"
    with printed_to.open("wb") as output:
        process = start(command, cwd=folder, output=output)

    def two_rounds() -> bool:
        assert process.poll() is None, printed_to.read_text()
        return (out / "checkpoints" / "round-0002").exists()

    wait_until(two_rounds, "two rounds")
    process.send_signal(signal.SIGINT)
    assert process.wait(LONG) == 130
    errors = printed_to.read_text()
    assert f"stopped; continue with: sotto simulate {folder / 'plan.toml'} --out {out} --resume" in errors
    assert "Traceback" not in errors
    reached = len(list((out / "checkpoints").glob("round-????")))
    assert 3 <= reached < 400
    code, _, printed = cli("simulate", folder / "plan.toml", "--out", out, "--no-privacy", "--resume")
    assert code == 2
    assert "started with privacy" in printed

"""The command line as a user meets it: what it prints, its exit codes, and one clear line for each mistake."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import sotto
from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from common.keys.node_key import NodeKey
from common.keys.statement_key import StatementKey, public_line
from common.plan.plan import Plan
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap
from server.run_directory.run_directory import RunDirectory
from tests.conftest import DEMO_BASE, Cli
from tests.programs.start import start
from tests.server.report.signed_run import change, make_run, signed, statement
from tests.waiting import LONG, wait_until

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


def test_a_run_without_patience_left_is_complete_and_says_so(cli: Cli, folder: Path) -> None:
    text = (folder / "plan.toml").read_text().replace("rounds = 1\n", "rounds = 4\n")
    # So short a step that no prediction changes: equal is no better.
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


def test_by_default_a_run_lies_in_a_folder_of_its_own_name(
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
        (["merge", "{folder}", "--out", "{folder}/merged"], "holds no adapter"),
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


def test_control_c_leaves_a_run_that_resume_continues(cli: Cli, folder: Path) -> None:
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
    assert "begun with privacy" in printed


# sotto … --help


def tree(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that name it."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from tree(inner, (*words, name))


def test_every_command_argument_and_option_has_a_help_and_prints_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    commands = list(tree(typer.main.get_command(sotto.app)))
    assert len(commands) >= 30
    arguments = 0
    for words, command in commands:
        code, printed, _ = cli(*words, "--help")
        text = " ".join(re.sub("[│╭╮╰╯─]", " ", printed).split())
        assert (code, words, bool(command.help)) == (0, words, True)
        for said in (command.help, *(parameter.help for parameter in command.params)):
            assert said, (words, [parameter.name for parameter in command.params if not parameter.help])
            assert " ".join(said.split()) in text, (words, said)
        for name, inner in getattr(command, "commands", {}).items():
            first = inner.help.split(". ")[0].rstrip(".")
            assert f"{name} {first}" in text, (words, name)
        arguments += sum(parameter.param_type_name == "argument" for parameter in command.params)
    assert arguments >= 20


# sotto privacy


@pytest.fixture
def signed_run(tmp_path: Path) -> tuple[RunDirectory, StatementKey]:
    key = StatementKey.generate()
    statements = [signed(statement("st-mary"), key), signed(statement("clinic", 20_000), key)]
    return make_run(tmp_path / "run", statements, {"st-mary": key, "clinic": key}), key


def test_a_simulation_leaves_a_report_that_says_that_it_protects_nobody(cli: Cli, folder: Path) -> None:
    out = folder / "run"
    code, printed, _ = cli("simulate", folder / "plan.toml", "--out", out)
    assert code == 0
    assert str(out / "privacy" / "report.html") in printed
    assert "protects nobody" in (out / "privacy" / "report.html").read_text()
    code, printed, errors = cli(
        "privacy", "report", out, "--html", folder / "new" / "r.html", "--json", folder / "r"
    )
    assert (code, errors) == (0, "")
    assert "protects nobody" in printed
    assert (folder / "new" / "r.html").read_bytes() == (out / "privacy" / "report.html").read_bytes()
    assert (folder / "r").read_bytes() == (out / "privacy" / "report.json").read_bytes()
    report = json.loads((folder / "r").read_text())
    assert [item["signature"] for item in report["organizations"]] == ["none", "none"]
    assert report["organizations"][0]["epsilon"] <= 8.0


def test_a_run_without_privacy_is_reported_as_such(cli: Cli, folder: Path) -> None:
    assert cli("simulate", folder / "plan.toml", "--out", folder / "run", "--no-privacy")[0] == 0
    assert "Trained without privacy" in (folder / "run" / "privacy" / "report.html").read_text()
    code, printed, _ = cli("privacy", "report", folder / "run", "--json", folder / "r.json")
    assert code == 0
    assert "trained without privacy" in printed
    assert json.loads((folder / "r.json").read_text())["epsilon"] is None


def test_a_signed_run_is_verified(cli: Cli, signed_run: tuple[RunDirectory, StatementKey]) -> None:
    directory, _ = signed_run
    code, printed, errors = cli("privacy", "report", directory.path)
    assert (code, errors) == (0, "")
    rows = [" ".join(line.split()) for line in printed.splitlines() if "same user" in line]
    assert [row.split()[0] for row in rows] == ["clinic", "st-mary"]
    assert all(row.endswith("valid") for row in rows)
    assert "7.81 of 16.00" in rows[1]  # 7.8002, rounded up


def test_an_unregistered_key_is_a_warning(cli: Cli, signed_run: tuple[RunDirectory, StatementKey]) -> None:
    directory, _ = signed_run
    (directory.path / "privacy" / "keys" / "clinic.pub").unlink()
    code, printed, errors = cli("privacy", "report", directory.path, "--html", directory.path / "r.html")
    assert (code, errors) == (0, "")
    assert "unregistered" in printed
    assert "warning: clinic: it registered no key" in printed
    assert "it registered no key" in (directory.path / "r.html").read_text()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"public_size": 10_001}, "st-mary: the statement was altered or forged"),
        ({"epsilon": 1.0}, "st-mary: the statement was altered or forged"),
        ({"signature": ""}, "st-mary: the statement was altered or forged"),
        ({"run": "another", "boundary": "simulation: one process"}, "another run's"),
    ],
)
def test_an_altered_statement_is_written_out_as_such_and_ends_with_1(
    cli: Cli, signed_run: tuple[RunDirectory, StatementKey], values: dict[str, object], said: str
) -> None:
    directory, _ = signed_run
    change(directory, "st-mary", **values)
    code, printed, errors = cli("privacy", "report", directory.path, "--html", directory.path / "r.html")
    assert code == 1
    assert said in errors
    assert len(errors.strip().splitlines()) == 1
    assert "invalid" in printed
    assert "Do not rely on this report" in (directory.path / "r.html").read_text()


def test_an_understated_epsilon_ends_with_1_although_it_is_signed(cli: Cli, tmp_path: Path) -> None:
    key = StatementKey.generate()
    directory = make_run(tmp_path / "run", [signed(statement("st-mary", epsilon=2.0), key)], {"st-mary": key})
    code, printed, errors = cli("privacy", "report", directory.path)
    assert code == 1
    assert "st-mary: it states ε = 2.0; its mechanism costs 7.7999" in errors
    assert "valid" in printed


def test_keys_of_ones_own_decide(cli: Cli, signed_run: tuple[RunDirectory, StatementKey], tmp_path: Path) -> None:
    directory, _ = signed_run
    (tmp_path / "keys").mkdir()
    other = StatementKey.generate()
    for name in ("st-mary", "clinic"):
        (tmp_path / "keys" / f"{name}.pub").write_text(public_line(other.public, name))
    code, _, errors = cli("privacy", "report", directory.path, "--keys", tmp_path / "keys")
    assert code == 1
    assert "clinic" in errors
    assert "st-mary" in errors


def test_a_hostile_organization_cannot_write_on_the_terminal(cli: Cli, tmp_path: Path) -> None:
    hostile = statement("st-mary", boundary="[red]x[/red]\x1b[2J\nok", unit="\x9b31m")
    directory = make_run(tmp_path / "run", [hostile], {})
    code, printed, errors = cli("privacy", "report", directory.path)
    assert code == 1
    assert "\x1b[2J" not in printed
    assert "\x9b31m" not in printed + errors
    assert "[red]x" in printed
    assert len(errors.strip().splitlines()) == 1


STATEMENT_FILE = "privacy/statements/st-mary.json"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no run": (lambda f: (f / "run.json").unlink(), "holds no run"),
    "not JSON": (lambda f: (f / STATEMENT_FILE).write_text("{"), "cannot be read as a statement"),
    "deep": (lambda f: (f / STATEMENT_FILE).write_text("[" * 200_000), "cannot be read as a statement"),
    "no statement": (lambda f: (f / STATEMENT_FILE).write_text("{}"), "cannot be read as a statement"),
    "another's": (
        lambda f: (f / STATEMENT_FILE).write_bytes((f / "privacy/statements/clinic.json").read_bytes()),
        "the statement of another organization",
    ),
    "missing": (lambda f: (f / STATEMENT_FILE).unlink(), "lacks the statement of st-mary"),
    "broken key": (lambda f: (f / "privacy/keys/st-mary.pub").write_text("x"), "not a public key"),
    "broken rounds": (lambda f: (f / "rounds.jsonl").write_text("5\n"), "rounds.jsonl"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_run_is_one_line_and_exit_code_2(
    cli: Cli, signed_run: tuple[RunDirectory, StatementKey], how: str
) -> None:
    path = signed_run[0].path
    make, said = BROKEN[how]
    make(path)
    code, printed, errors = cli("privacy", "report", path, "--html", path / "r.html")
    assert code == 2
    assert said in errors
    assert len(errors.strip().splitlines()) == 1
    assert printed == ""
    assert not (path / "r.html").exists()


def test_calibrate_shows_what_a_plan_needs(cli: Cli, folder: Path) -> None:
    plan = folder / "plan.toml"
    code, printed, errors = cli("privacy", "calibrate", plan, "--public-size", 40, "--public-size", 80, "--json")
    assert (code, errors.strip()) == (0, "")
    given = json.loads(printed)
    assert [row["public_size"] for row in given["organizations"]] == [40, 80]
    assert given["noise_to_signal"]["step"] > 0
    code, printed, _ = cli("privacy", "calibrate", plan, "--json")
    assert code == 0
    # The simulation deals 40 records to each of a and b.
    assert [(row["name"], row["public_size"]) for row in json.loads(printed)["organizations"]] == [
        ("a", 40),
        ("b", 40),
    ]
    code, printed, _ = cli("privacy", "calibrate", plan)
    assert code == 0
    for expected in ("noise to signal, at best", "batch size 20", "ε 16", "other settings"):
        assert expected in printed
    edit(folder, 'base = "', 'base = "nowhere')
    assert "noise to signal: left out" in cli("privacy", "calibrate", plan, "--public-size", 40)[1]


def write_organization(folder: Path) -> Path:
    path = folder / "organization.toml"
    base = json.dumps(Plan.read(folder / "plan.toml").model.base)
    path.write_text(
        f'name = "st-mary"\n[data]\ntrain = "records.jsonl"\npublic_size = 50\n[models]\n{base} = {base}\n'
        "[policy]\nmax_epsilon = 10.0\nmax_epsilon_per_run = 9.0\nmax_delta = 1e-2\nmin_noise_multiplier = 3.0\n"
    )
    return path


def test_calibrate_and_budget_of_an_organization(cli: Cli, folder: Path) -> None:
    path = write_organization(folder)
    code, printed, _ = cli("privacy", "calibrate", folder / "plan.toml", "--organization", path, "--json")
    assert code == 0
    (row,) = json.loads(printed)["organizations"]
    assert (row["name"], row["public_size"], row["noise_multiplier"]) == ("st-mary", 50, 3.0)
    code, _, errors = cli("privacy", "budget", path)
    assert code == 2
    assert "there is no ledger" in errors
    ledger = Ledger(folder / "ledger.db", "st-mary", "example")
    run = Reservation("triage-1", "p", "f", Mechanism(0.2, 3.0, 1), 0.75, 1e-3, 1)
    ledger.reserve(run, Cap(10.0, 1e-2))
    code, printed, _ = cli("privacy", "budget", path, "--json")
    assert code == 0
    values = json.loads(printed)
    assert {
        key: values[key] for key in ("organization", "delta", "epsilon_spent", "epsilon_reserved", "max_epsilon")
    } == {
        "organization": "st-mary",
        "delta": 1e-2,
        "epsilon_spent": 0.0,
        "epsilon_reserved": 0.75,
        "max_epsilon": 10.0,
    }
    ((only,)) = values["runs"]
    assert (only["run"], only["state"]) == ("triage-1", "reserved")
    ledger.settle("triage-1", 1, "request", 1, b"release")
    code, printed, _ = cli("privacy", "budget", path)
    assert code == 0
    assert "ε spent 0.7500, reserved 0.0000, left 9.2500 of 10" in printed
    assert "complete" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--public-size", "40", "--organization", "{folder}/organization.toml"], "cannot be given together"),
        (["--public-size", "9"], "at most public_size = 9"),
        (["--organization", "{folder}/nowhere.toml"], "there is no such file"),
        (["--organization", "{folder}/organization.toml"] * 2, "two have the name 'st-mary'"),
    ],
)
def test_calibrate_refuses_in_one_line(cli: Cli, folder: Path, arguments: list[str], said: str) -> None:
    write_organization(folder)
    given = [argument.format(folder=folder) for argument in arguments]
    code, printed, errors = cli("privacy", "calibrate", folder / "plan.toml", *given)
    assert (code, printed) == (2, "")
    assert said in errors
    assert len(errors.strip().splitlines()) == 1


def test_calibrate_keeps_to_the_policy(cli: Cli, folder: Path) -> None:
    path = write_organization(folder)
    edit(folder, "epsilon = 8.0", "epsilon = 9.5")
    code, _, errors = cli("privacy", "calibrate", folder / "plan.toml", "--organization", path)
    assert code == 2
    assert "a run may cost 9.0 at most" in errors


def test_calibrate_without_any_size_says_what_to_give(cli: Cli, folder: Path) -> None:
    edit(folder, '[simulation]\ndata = "records.jsonl"\n', "[simulation]\n")
    code, _, errors = cli("privacy", "calibrate", folder / "plan.toml")
    assert code == 2
    assert "give --public-size or --organization" in errors


@pytest.mark.parametrize("package", ["client", "server"])
def test_a_foreign_package_named_common_is_refused(package: str, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(DEMO_BASE.parents[2])!r}]; import {package}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode != 0
    assert "is not Sotto's own" in ended.stderr


# Keys, registration and approval


def test_both_sides_see_the_fingerprint_of_one_key_and_a_revoked_one_is_gone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("")
    server = ("--server", tmp_path / "server.toml")
    code, said, _ = cli("client", "keys", tmp_path / "keys", "--name", "st-mary")
    assert code == 0
    assert (tmp_path / "keys" / "statement.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys" / "node.key").stat().st_mode & 0o777 == 0o600
    publics = [tmp_path / "keys" / "node.pub", tmp_path / "keys" / "statement.pub"]
    # The public halves can be copied from the screen.
    assert all(public.read_text() in said for public in publics)
    node, statement = (line.split()[-1] for line in said.splitlines() if "fingerprint" in line)
    # By another program, if it is there: the organization can check with what it has.
    if shutil.which("ssh-keygen"):
        for public, fingerprint in zip(publics, (node, statement), strict=True):
            listed = subprocess.run(["ssh-keygen", "-lf", public], capture_output=True, text=True, check=True)
            assert fingerprint == listed.stdout.split()[1]
    code, said, _ = cli("server", "register", "st-mary", *publics, *server)
    assert (code, node in said, statement in said) == (0, True, True)
    assert cli("server", "list", *server)[1] == f"st-mary  node {node}  statement {statement}\n"
    assert cli("server", "revoke", "st-mary", *server)[0] == 0
    assert cli("server", "list", *server)[1] == ""
    code, _, error = cli("server", "register", "st-mary", *publics, *server)
    assert (code, "was revoked" in error) == (2, True)


def test_a_key_is_never_replaced(cli: Cli, tmp_path: Path) -> None:
    cli("client", "keys", tmp_path / "keys", "--name", "st-mary")
    before = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    code, _, error = cli("client", "keys", tmp_path / "keys", "--name", "st-mary")
    assert code == 2
    assert "exists already" in error
    assert {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before
    # A node key that was moved away, after a theft for instance, is made anew; the other stays.
    (tmp_path / "keys" / "node.key").rename(tmp_path / "stolen.key")
    code, said, _ = cli("client", "keys", tmp_path / "keys", "--name", "st-mary")
    assert (code, "node.pub" in said) == (0, True)
    after = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert {path.name for path in before if before[path] == after[path]} == {"statement.key", "statement.pub"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("register", "st-mary", "no-such.pub", "statement.pub"), "no-such.pub: there is no such file"),
        (("register", "st-mary", "node.pub", "no-such.pub"), "no-such.pub: there is no such file"),
        (("register", "st-mary", "node.pub", "server.toml"), "server.toml: not a public key"),
        (("register", "st-mary", "statement.pub", "node.pub"), "node.pub: not an Ed25519 public key"),
        (("register", "st-mary", "statement.pub", "statement.pub"), "not an ECDSA public key on P-384"),
        (("register", "../st-mary", "node.pub", "statement.pub"), "lower-case letters"),
        (("revoke", "clinic"), "clinic"),
    ],
)
def test_a_mistake_at_the_registry_is_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("server.toml").write_text("")
    Path("statement.pub").write_text(public_line(StatementKey.generate().public, "st-mary"))
    Path("node.pub").write_text(NodeKey.generate().public.line("st-mary"))
    code, _, error = cli("server", *arguments, "--server", "server.toml")
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
    assert cli("server", "list", "--server", "server.toml")[1] == ""


def test_approving_shows_what_a_plan_would_cost_and_records_it(cli: Cli, folder: Path) -> None:
    organization = write_organization(folder)
    plan = folder / "plan.toml"
    plan.write_text(plan.read_text().replace("delta = 1e-3", "delta = 1e-4"))
    code, said, _ = cli("client", "approve", organization, plan)
    assert code == 0
    digest = Plan.read(plan).digest()
    assert f"approved: {digest}" in said
    assert "1 steps at rate 0.2 " in said
    assert digest in (folder / "approved-plans.txt").read_text()
    assert not (folder / "ledger.db").exists(), "nothing is spent"

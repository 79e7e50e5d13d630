"""`sotto privacy report`: of simulations, of signed runs, of altered and broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from common.keys.statement_key import StatementKey, public_line
from server.run_directory.run_directory import RunDirectory
from tests.common.report.forged import FORGED, KEY
from tests.common.report.sample_run import signed, statement
from tests.conftest import Cli
from tests.server.run_directory.sample_directory import change, make_run


@pytest.fixture
def signed_run(tmp_path: Path) -> tuple[RunDirectory, StatementKey]:
    key = StatementKey.generate()
    statements = [signed(statement("st-mary"), key), signed(statement("clinic", 20_000), key)]
    return make_run(tmp_path / "run", statements, {"st-mary": key, "clinic": key}), key


def test_the_report_of_a_simulation_states_that_it_gives_no_protection(cli: Cli, folder: Path) -> None:
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
    assert "7.88 of 16.00" in rows[0]  # 7.8703, rounded up


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
        ({"run": "another", "boundary": "simulation: one process"}, "from another run"),
    ],
)
def test_an_altered_statement_is_reported_and_ends_with_1(
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


@pytest.mark.parametrize(
    "name",
    [
        "renyi, nothing spent",
        "an unknown filter",
        "renyi, a delta of one and nothing spent",
        "basic, a smaller delta than the run's",
        "altered noise under a signature",
        "simulated, less noise",
        "simulated, another cost",
    ],
)
def test_a_false_statement_ends_with_1_and_is_marked_within_80_columns(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    forged, key = FORGED[name], StatementKey.generate()
    statements = [forged.statement(), signed(statement("clinic", 20_000), key)]
    registered = {"clinic": key} if forged.author == "simulation" else {"clinic": key, "st-mary": KEY}
    directory = make_run(tmp_path / "run", statements, registered)
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, errors = cli("privacy", "report", directory.path, "--json", tmp_path / "r.json")
    assert code == 1
    for expected in forged.problems:
        assert f"st-mary: {expected}" in errors
    assert "clinic" not in errors
    assert len(errors.strip().splitlines()) == 1
    assert max(len(line) for line in printed.splitlines()) <= 80
    rows = {line.split()[0]: line for line in printed.splitlines() if "example" in line}
    assert "✕" in rows["st-mary"]
    assert "✕" not in rows["clinic"]
    assert "the statement does not hold" in printed
    report = json.loads((tmp_path / "r.json").read_text())
    assert "[clinic: (7.88, 4e-05) for one example]" in report["guarantee"]  # 7.8703, rounded up
    assert report["epsilon"] == 7.8703


def test_given_keys_take_precedence(
    cli: Cli, signed_run: tuple[RunDirectory, StatementKey], tmp_path: Path
) -> None:
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

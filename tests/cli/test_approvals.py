"""`sotto client approve`, `approvals` and `withdraw`, as an administrator types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from common.plan.plan import Plan
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap
from tests.cli.files import write_organization
from tests.conftest import ROOT, Cli

Answer = Callable[[str], None]


@pytest.fixture
def organization(folder: Path) -> Path:
    path = write_organization(folder)
    path.write_text(path.read_text().replace("max_epsilon = 10.0", "max_epsilon = 40.0"))
    plan = folder / "plan.toml"
    plan.write_text(plan.read_text().replace("delta = 1e-3", "delta = 1e-4"))
    return path


@pytest.fixture
def plan(organization: Path) -> Path:
    return organization.with_name("plan.toml")


def total(plan: Path) -> int | None:
    """The number of runs in the file of approved plans, read with nothing of ours; None without a line."""
    try:
        lines = plan.with_name("approved-plans.txt").read_text().splitlines()
    except FileNotFoundError:
        return None
    rows = [line.split() for line in lines]
    return next((int(row[3]) for row in rows if row[0] == Plan.read(plan).digest()), None)


def charge(plan: Path, *runs: str) -> None:
    """Reserve runs of a plan, as the vault does."""
    ledger = Ledger(plan.with_name("ledger.db"), "st-mary", "example")
    ledger.cap.set_or_lower(Cap(40.0, 1e-2))
    for run in runs:
        ledger.reserve(Reservation(run, Plan.read(plan).digest(), "f", Mechanism(0.2, 3.0, 1), 0.75, 1e-4, 1))
    ledger.close()


def test_approving_asks_and_records_only_a_yes(cli: Cli, organization: Path, plan: Path, answer: Answer) -> None:
    answer("n")
    code, printed, _ = cli("client", "approve", organization, plan)
    assert (code, total(plan)) == (1, None)
    assert "1 steps at rate 0.2 " in printed
    assert printed.index("of 40.0 spent so far") < printed.index("Approve one run of this plan?")
    assert "nothing was recorded" in printed
    answer("")
    assert cli("client", "approve", organization, plan)[0] == 1
    assert total(plan) is None
    answer("y")
    code, printed, _ = cli("client", "approve", organization, plan)
    assert (code, total(plan)) == (0, 1)
    assert f"approved: {Plan.read(plan).digest()}; runs left: 1" in printed
    answer("y")
    assert "Approve 3 runs of this plan?" in cli("client", "approve", organization, plan, "--runs", 3)[1]
    assert total(plan) == 4


def test_without_a_terminal_a_real_command_needs_yes(organization: Path, plan: Path) -> None:
    command = [sys.executable, "-P", "-m", "sotto", "client", "approve", organization, plan]
    ended = subprocess.run(command, input="y\n", capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "add --yes" in ended.stderr
    assert total(plan) is None


def test_the_list_counts_the_runs_in_the_ledger(cli: Cli, organization: Path, plan: Path) -> None:
    assert "no plan is approved" in cli("client", "approvals", organization)[1]
    assert cli("client", "approve", organization, plan, "--runs", 3, "--yes")[0] == 0
    charge(plan, "one", "two")
    code, printed, _ = cli("client", "approvals", organization, "--json")
    values = json.loads(printed)
    (row,) = values.pop("plans")
    assert (code, values) == (0, {"organization": "st-mary", "required": True})
    assert row.pop("at").startswith("20")
    assert row == {
        "plan": "cli",
        "digest": Plan.read(plan).digest(),
        "runs_approved": 3,
        "runs_used": 2,
        "runs_left": 1,
    }
    code, printed, _ = cli("client", "approvals", organization)
    assert code == 0
    assert Plan.read(plan).digest()[:12] in printed
    charge(plan, "three", "four")
    (row,) = json.loads(cli("client", "approvals", organization, "--json")[1])["plans"]
    assert (row["runs_used"], row["runs_left"]) == (4, 0)
    # One more run, whatever was used before.
    assert "runs left: 1" in cli("client", "approve", organization, plan, "--yes")[1]
    assert total(plan) == 5


@pytest.mark.parametrize("by", ["file", "digest", "eight digits"])
def test_an_approval_is_withdrawn_by_file_or_digest(cli: Cli, organization: Path, plan: Path, by: str) -> None:
    assert cli("client", "approve", organization, plan, "--runs", 2, "--yes")[0] == 0
    charge(plan, "one")
    digest = Plan.read(plan).digest()
    named = {"file": plan, "digest": digest, "eight digits": digest[:8]}[by]
    code, printed, errors = cli("client", "withdraw", organization, named)
    assert (code, errors, total(plan)) == (0, "", None)
    assert f"withdrawn: {digest}, cli; approved runs that were left: 1" in printed
    code, _, errors = cli("client", "withdraw", organization, named)
    assert (code, errors.count("\n")) == (2, 1)
    assert "is approved; see: sotto client approvals" in errors
    # What was withdrawn is not approved again by the next approval.
    assert "runs left: 1" in cli("client", "approve", organization, plan, "--yes")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("approve", "{organization}", "{plan}", "--yes", "--runs", "0"),
            "--runs 0: it should be a number of runs",
        ),
        (("approve", "{organization}", "{plan}", "--yes", "--runs", "-3"), "--runs -3: it should be"),
        (("approve", "{organization}", "{plan}", "--yes", "--runs", "1001"), "from 1 to 1000"),
        (
            ("approve", "{organization}", "{plan}", "--yes", "--runs", "1000"),
            "the lifetime budget does not cover it",
        ),
        (("approve", "{organization}", "{plan}"), "add --yes"),
        (("approve", "{organization}", "{folder}/no.toml", "--yes"), "there is no such file"),
        (("withdraw", "{organization}", "0123456789ab"), "no plan with digest 0123456789ab is approved"),
        (("withdraw", "{organization}", "0123456"), "it should be the file of a plan, or its digest: 8 to 64"),
        (("withdraw", "{organization}", "no-such-plan.toml"), "it should be the file of a plan, or its digest"),
        (("withdraw", "{organization}", "x" * 5000), "it should be the file of a plan, or its digest"),
        (("withdraw", "{organization}", "{organization}"), "organization.toml: "),
        (("approvals", "{folder}/no.toml"), "there is no such file"),
    ],
)
def test_a_mistake_is_one_line_and_records_nothing(
    cli: Cli, organization: Path, plan: Path, arguments: tuple[str, ...], said: str
) -> None:
    names = {"organization": organization, "plan": plan, "folder": plan.parent}
    before = sorted(plan.parent.rglob("*"))
    code, printed, errors = cli("client", *(argument.format(**names) for argument in arguments))
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert said in errors
    assert sorted(plan.parent.rglob("*")) == before


def test_a_number_of_runs_that_is_none_is_an_error_of_usage(cli: Cli, organization: Path, plan: Path) -> None:
    code, _, errors = cli("client", "approve", organization, plan, "--yes", "--runs", "many")
    assert code == 2
    assert "'many'" in errors
    assert total(plan) is None


def test_digits_that_two_plans_share_are_not_enough(cli: Cli, organization: Path, plan: Path) -> None:
    file = plan.with_name("approved-plans.txt")
    text = "".join(f"{'ab' * 31}{end} two 2026-11-22 1\n" for end in ("00", "01"))
    file.write_text(text)
    code, _, errors = cli("client", "withdraw", organization, "abababab")
    assert (code, file.read_text()) == (2, text)
    assert "2 approved plans have a digest that starts with it; give more digits" in errors
    assert cli("client", "withdraw", organization, "ab" * 31 + "01")[0] == 0
    assert file.read_text() == text.splitlines(keepends=True)[0]


def test_a_line_that_cannot_be_read_is_one_line_at_every_command(cli: Cli, organization: Path, plan: Path) -> None:
    file = plan.with_name("approved-plans.txt")
    file.write_text("# approved by the board\nfor ever\n")
    for command in (
        ["approve", organization, plan, "--yes"],
        ["approvals", organization],
        ["withdraw", organization, plan],
    ):
        code, _, errors = cli("client", *command)
        assert (code, errors.count("\n")) == (2, 1)
        assert f"{file}: line 2 is not an approval" in errors
    assert file.read_text() == "# approved by the board\nfor ever\n"


def test_a_policy_that_needs_no_approval_is_mentioned(cli: Cli, organization: Path, plan: Path) -> None:
    organization.write_text(f'{organization.read_text()}plans = "any-within-policy"\n')
    assert cli("client", "approve", organization, plan, "--yes")[0] == 0
    assert "needs no approval" in cli("client", "approvals", organization)[1]
    assert "runs this plan without an approval" in cli("client", "withdraw", organization, plan)[1]


def test_approved_plans_that_cannot_be_written_are_one_line(cli: Cli, organization: Path, plan: Path) -> None:
    plan.with_name("approved-plans.txt.part").mkdir()
    code, _, errors = cli("client", "approve", organization, plan, "--yes")
    assert (code, errors.count("\n"), total(plan)) == (2, 1, None)
    assert f"{plan.with_name('approved-plans.txt')}: cannot be written" in errors

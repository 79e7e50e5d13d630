"""`sotto client check` of a healthy organization, and its exit codes; nothing on disk changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from client.check.check import GROUPS
from client.check.ledger import check_ledger
from client.relay.vault_client import RemoteVault
from client.vault.policy.organization import Organization
from common.keys.statement_key import StatementKey, key_fingerprint
from tests.client.check.checking import (
    change,
    ledger_of,
    open_to_all,
    problems,
    reserve,
    run_checks,
    snapshot,
    write_plan,
)
from tests.client.vaults import VaultProcess, open_vault, request_for
from tests.conftest import Cli, MakePlan
from tests.waiting import LONG, wait_until


@pytest.fixture
def cli(cli: Cli) -> Cli:
    """Run `sotto client check`."""
    return partial(cli, "client", "check")


# A healthy organization


def test_a_healthy_organization_has_nothing_to_look_at(path: Path, make_plan: MakePlan, cli: Cli) -> None:
    plan = write_plan(path.parent, make_plan())
    open_vault(path).train(request_for(make_plan()))
    code, output, errors = cli(path, "--plan", plan, "--json")
    assert (code, errors) == (0, "")
    values = json.loads(output)
    assert list(values) == ["organization", "checks", "ok"]
    assert (values["organization"], values["ok"]) == ("st-mary", True)
    assert all(list(one) == ["group", "name", "state", "text"] for one in values["checks"])
    assert {one["state"] for one in values["checks"]} == {"ok"}
    groups = [one["group"] for one in values["checks"]]
    assert list(dict.fromkeys(groups)) == list(GROUPS)
    assert groups == sorted(groups, key=GROUPS.index)
    code, lines, errors = cli(path, "--plan", plan)
    assert (code, errors) == (0, "")
    *lines, last = lines.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", group] for group in groups]
    assert last == f"st-mary: nothing wrong, 0 to review, {len(groups)} checked"


def test_it_says_which_model_which_key_and_what_is_left(path: Path, tiny_base: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    request = request_for(plan)
    open_vault(path).train(request)
    findings = run_checks(path, plan)
    # Two layers of 32 wide: four attention matrices, three of 48, two norms; the embedding, tied, and a last norm.
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_base))
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    model = findings["model", str(tiny_base)].text
    assert f"{vocabulary * 32 + 2 * layer + 32:,} parameters, stored as float32" in model
    assert f"fingerprint as float32: {request.fingerprint[:12]}" in model
    public = StatementKey.read(path.parent / "keys" / "statement.key").public
    assert key_fingerprint(public) in findings["ledger", "statement key"].text
    assert "intact: 4 chained entries, 1 runs" in findings["ledger", "ledger"].text
    assert "spent 0, reserved 7.9" in findings["ledger", "budget"].text
    assert "4 steps at rate 0.2 with noise σ = " in findings["plan", "cost"].text


def test_before_the_vault_ever_started_there_is_no_ledger_and_that_is_well(path: Path) -> None:
    findings = run_checks(path)
    assert problems(findings) == {}
    assert "the vault creates it" in findings["ledger", "ledger"].text
    assert ("ledger", "budget") not in findings


def test_nothing_on_disk_changes(path: Path, tiny_base: Path, make_plan: MakePlan, cli: Cli) -> None:
    plan = write_plan(path.parent, make_plan())
    for _ in range(2):  # without a ledger, and with one
        before = snapshot(path.parent, tiny_base)
        assert cli(path, "--plan", plan)[0] == 0
        assert snapshot(path.parent, tiny_base) == before
        open_vault(path).train(request_for(make_plan()))


def test_a_vault_that_trains_meanwhile_is_not_disturbed(path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(training={"rounds": 1, "local_steps": 60})
    with (
        VaultProcess(path).wait_ready() as vault,
        ThreadPoolExecutor(1) as caller,
        RemoteVault(path.parent / "vault.sock", LONG, LONG) as asked,
    ):
        answer = caller.submit(asked.train, request_for(plan))
        wait_until(lambda: ", 1 runs," in ledger_line(path), "the reservation")
        assert problems(run_checks(path, make_plan(training={"rounds": 1}))) == {}
        assert answer.result(LONG).update
        assert vault.process.poll() is None
        assert vault.errors.read_text() == ""


def ledger_line(path: Path) -> str:
    """The text of the finding on the ledger."""
    return next(finding.text for finding in check_ledger(Organization.read(path)) if finding.name == "ledger")


def test_a_vault_that_has_begun_to_write_is_not_waited_for(path: Path, make_plan: MakePlan) -> None:
    reserve(path, 1.0)
    ledger = ledger_of(path)
    with ledger._database.transaction():
        ledger._chain.append({"kind": "nothing yet"})
        assert problems(run_checks(path, make_plan())) == {}


# Exit codes


def test_what_is_wrong_is_exit_code_1_and_a_warning_is_not(path: Path, cli: Cli) -> None:
    change(path, data={"public_size": 30})
    code, output, _ = cli(path)
    assert code == 0
    assert "\nst-mary: nothing wrong, 1 to review" in output
    open_to_all(path)
    code, output, errors = cli(path)
    assert (code, errors) == (1, "")
    assert "\nwrong   ledger     statement key: " in output
    assert "\nst-mary: 1 wrong, 1 to review" in output
    assert json.loads(cli(path, "--json")[1])["ok"] is False


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: path.write_text("name = "), "not valid TOML"),
        (lambda path: path.write_text('nam = "st-mary"\n'), "did you mean 'name'?"),
    ],
)
def test_a_file_that_cannot_be_read_as_settings_is_exit_code_2(
    path: Path, make_plan: MakePlan, cli: Cli, damage: Callable[[Path], None], message: str
) -> None:
    plan = write_plan(path.parent, make_plan())
    damage(plan)
    code, output, errors = cli(path, "--plan", plan)
    assert (code, output) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1
    damage(path)
    assert cli(path)[0] == 2

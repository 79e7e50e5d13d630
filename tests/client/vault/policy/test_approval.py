"""Approved plans and their cost; no other plan is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from client.admin.cost import plan_cost
from client.vault.ledger.ledger import Ledger
from client.vault.policy.approval import Approvals
from client.vault.policy.organization import Organization
from client.vault.vault import Vault
from common.errors import InputError, Refused
from common.keys.statement_key import StatementKey, is_signed
from common.model.model import LoraModel
from common.records import read_records
from common.settings import load, validate
from simulations.entropy import SeededEntropy
from tests.client.vaults import request_for, write_organization
from tests.conftest import MakePlan


def organization_with(path: Path, **policy: Any) -> Organization:
    """Read an organization's file, with changes to its policy."""
    values = load(path, Organization).model_dump()
    values["policy"] |= policy
    organization = validate(values, Organization, "the test's organization")
    organization._folder = path.parent
    return organization


def vault_of(organization: Organization) -> Vault:
    key = StatementKey.read(organization.path(organization.vault.statement_key))
    ledger = Ledger(organization.path(organization.vault.ledger), organization.name, "example", key)
    records = read_records(organization.path(organization.data.train))
    return Vault(organization, records, ledger, LoraModel, SeededEntropy(7), "same user")


@pytest.fixture
def path(tmp_path: Path, tiny_base: Path) -> Path:
    return write_organization(tmp_path / "st-mary", tiny_base)


def test_a_plan_that_is_not_approved_is_refused_and_costs_nothing(path: Path, make_plan: MakePlan) -> None:
    organization = organization_with(path, plans="approved")
    vault = vault_of(organization)
    plan, other = make_plan(), make_plan(privacy={"epsilon": 7.0})
    with pytest.raises(Refused, match="plan-not-approved"):
        vault.train(request_for(plan))
    approvals = Approvals(organization.path(organization.policy.approvals))
    approvals.add(other)
    with pytest.raises(Refused, match="plan-not-approved"):
        vault.train(request_for(plan))
    with pytest.raises(Refused, match="never reserved"):
        vault.statement("test-run")
    approvals.add(plan)
    vault.train(request_for(plan))


def test_a_run_that_was_charged_goes_on_when_its_approval_is_taken_back(path: Path, make_plan: MakePlan) -> None:
    organization = organization_with(path, plans="approved")
    file = organization.path(organization.policy.approvals)
    Approvals(file).add(make_plan())
    vault = vault_of(organization)
    vault.train(request_for(make_plan()))
    file.write_text("")
    vault.train(request_for(make_plan(), 2))
    with pytest.raises(Refused, match="plan-not-approved"):
        vault.train(request_for(make_plan(), run="another-run"))


def test_approving_twice_writes_one_line(tmp_path: Path, make_plan: MakePlan) -> None:
    approvals = Approvals(tmp_path / "approved-plans.txt")
    assert make_plan() not in approvals
    for _ in range(2):
        approvals.add(make_plan())
    (line,) = (tmp_path / "approved-plans.txt").read_text().splitlines()
    assert line.split()[:2] == [make_plan().digest(), "test"]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"tasks": ["classification"]}, "task.kind = 'causal-lm'; allowed: classification"),
        ({"max_rounds": 1}, "training.rounds = 2; at most 1 are allowed"),
        ({"max_steps": 3}, "rounds × local_steps = 4; at most 3 are allowed"),
    ],
)
def test_the_policy_limits_tasks_rounds_and_steps(
    path: Path, make_plan: MakePlan, policy: dict[str, Any], message: str
) -> None:
    organization = organization_with(path, **policy)
    with pytest.raises(Refused) as refused:
        vault_of(organization).train(request_for(make_plan()))
    assert (refused.value.code, refused.value.detail) == ("policy", message)
    with pytest.raises(InputError, match="allowed"):
        plan_cost(organization, make_plan())


def test_the_price_is_what_is_then_charged(path: Path, make_plan: MakePlan) -> None:
    organization, plan = organization_with(path), make_plan()
    before = plan_cost(organization, plan)
    assert (before.spent, before.after) == (0.0, before.epsilon)
    vault = vault_of(organization)
    vault.train(request_for(plan))
    statement = vault.statement("test-run")
    assert statement.mechanisms == (before.mechanism,)
    assert (statement.epsilon, statement.lifetime.epsilon_spent) == (before.epsilon, before.after)
    assert plan_cost(organization, plan).spent == before.epsilon


def test_a_plan_beyond_the_lifetime_budget_has_no_price(path: Path, make_plan: MakePlan) -> None:
    with pytest.raises(InputError, match="the lifetime budget does not cover it"):
        plan_cost(organization_with(path, max_epsilon=7.0), make_plan())


def test_a_vault_whose_ledger_is_an_older_copy_trains_nothing(path: Path, make_plan: MakePlan) -> None:
    organization = organization_with(path)
    file = organization.path(organization.vault.ledger)
    vault = vault_of(organization)
    vault.train(request_for(make_plan(), 1))
    copy = file.read_bytes()
    newest = vault.train(request_for(make_plan(), 2)).head
    file.write_bytes(copy)
    behind = vault_of(organization)
    for request in (
        request_for(make_plan(), 2),
        request_for(make_plan(), 1),
        request_for(make_plan(), run="new-run"),
    ):
        with pytest.raises(Refused, match="ledger-behind"):
            behind.train(dataclasses.replace(request, seen=newest))


def test_a_statement_is_signed_by_the_vault(path: Path, make_plan: MakePlan) -> None:
    organization = organization_with(path)
    vault = vault_of(organization)
    head = vault.train(request_for(make_plan())).head
    statement = vault.statement("test-run")
    public = StatementKey.read(organization.path(organization.vault.statement_key)).public
    assert is_signed(statement.signed_bytes(), statement.signature, public)
    assert statement.head == head
    assert {"sotto", "opacus", "torch", "python"} <= set(statement.versions)
    for change in ({"epsilon": 1.0}, {"boundary": "container"}, {"unit": "user"}, {"key": "00" * 32}):
        altered = dataclasses.replace(statement, **change)  # type: ignore[arg-type]
        assert not is_signed(altered.signed_bytes(), statement.signature, public)

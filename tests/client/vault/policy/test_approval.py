"""Approved plans and their cost; no other plan is trained."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.admin.approvals import approve, withdraw
from client.admin.cost import plan_cost
from client.admin.raise_cap import raise_cap
from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from client.vault.policy.approval import Approvals
from client.vault.policy.organization import Organization
from client.vault.vault import Vault
from common.errors import InputError, Refused
from common.keys.statement_key import StatementKey, is_signed
from common.model.model import LoraModel
from common.privacy.mechanism import Mechanism
from common.protocol.protocol import TrainRequest
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
    approve(organization, other, 1)
    with pytest.raises(Refused) as refused:
        vault.train(request_for(plan))
    digest = plan.digest()[:12]
    assert (refused.value.code, refused.value.detail) == (
        "plan-not-approved",
        f"plan test, digest {digest}: it is not approved",
    )
    with pytest.raises(Refused, match="never reserved"):
        vault.statement("test-run")
    approve(organization, plan, 1)
    vault.train(request_for(plan))


def test_an_approval_covers_one_run_and_all_its_rounds(path: Path, make_plan: MakePlan) -> None:
    organization = organization_with(path, plans="approved", max_epsilon=100.0, max_delta=2e-2)
    plan, vault = make_plan(), vault_of(organization)
    assert approve(organization, plan, 1) == 1
    for number in (1, 2, 2):
        vault.train(request_for(plan, number))
    with pytest.raises(Refused) as refused:
        vault.train(request_for(plan, run="another-run"))
    digest = plan.digest()[:12]
    assert (refused.value.code, refused.value.detail) == (
        "plan-not-approved",
        f"plan test, digest {digest}: its approved runs are used up",
    )
    with pytest.raises(Refused, match="never reserved"):
        vault.statement("another-run")
    assert approve(organization, plan, 2) == 2
    for run in ("second", "third"):
        vault.train(request_for(plan, run=run))
    with pytest.raises(Refused, match="used up"):
        vault_of(organization).train(request_for(plan, run="fourth"))


def test_a_run_that_was_charged_goes_on_when_its_approval_is_taken_back(path: Path, make_plan: MakePlan) -> None:
    organization = organization_with(path, plans="approved", max_epsilon=100.0, max_delta=2e-2)
    plan = make_plan()
    approve(organization, plan, 5)
    vault = vault_of(organization)
    vault.train(request_for(plan))
    approval, left = withdraw(organization, plan.digest()[:12])
    assert (approval.digest, approval.total, left) == (plan.digest(), 5, 4)
    vault.train(request_for(plan, 2))
    with pytest.raises(Refused, match="it is not approved"):
        vault.train(request_for(plan, run="another-run"))


def test_a_line_that_cannot_be_read_stops_the_start_and_during_a_request_it_refuses(
    path: Path, make_plan: MakePlan, caplog: pytest.LogCaptureFixture
) -> None:
    organization = organization_with(path, plans="approved")
    plan, file = make_plan(), organization.path(organization.policy.approvals)
    approve(organization, plan, 1)
    vault = vault_of(organization)
    file.write_text(f"{file.read_text()}for ever\n")
    with pytest.raises(Refused) as refused:
        vault.train(request_for(plan))
    digest = plan.digest()[:12]
    assert (refused.value.code, refused.value.detail) == ("plan-not-approved", f"plan test, digest {digest}")
    assert f"{file}: line 2 is not an approval" in caplog.text
    with pytest.raises(InputError, match="line 2 is not an approval"):
        vault_of(organization)
    vault_of(organization_with(path, plans="any-within-policy"))


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


def test_a_statement_says_how_often_the_cap_was_raised(path: Path, make_plan: MakePlan) -> None:
    organization = organization_with(path)
    vault = vault_of(organization)
    vault.train(request_for(make_plan()))
    before = vault.statement("test-run")
    assert (before.lifetime.max_epsilon, before.lifetime.delta, before.lifetime.raised) == (20.0, 5e-3, 0)
    higher = organization_with(path, max_epsilon=30.0)
    with pytest.raises(InputError, match=r"max_epsilon = 30\.0.*ε = 20\.0.*raise-cap"):
        vault_of(higher)
    assert vault.statement("test-run") == before
    assert raise_cap(higher, lambda _: True)
    vault_of(organization_with(path, max_epsilon=25.0))
    after = vault.statement("test-run")
    assert (after.lifetime.max_epsilon, after.lifetime.raised) == (25.0, 1)
    public = StatementKey.read(organization.path(organization.vault.statement_key)).public
    assert is_signed(after.signed_bytes(), after.signature, public)
    hidden = dataclasses.replace(after, lifetime=dataclasses.replace(after.lifetime, raised=0))
    assert not is_signed(hidden.signed_bytes(), after.signature, public)


def test_a_run_is_held_against_the_cap_of_the_ledger(path: Path, make_plan: MakePlan) -> None:
    vault = vault_of(organization_with(path, max_epsilon=9.0))
    vault.train(request_for(make_plan()))
    with pytest.raises(InputError, match="raise-cap"):
        vault_of(organization_with(path, max_epsilon=20.0))
    with pytest.raises(Refused, match=r"budget: .* of 9\.0 is spent"):
        vault.train(request_for(make_plan(), run="another-run"))
    with pytest.raises(InputError, match=r"of 9\.0 is spent"):
        plan_cost(organization_with(path, max_epsilon=20.0), make_plan())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("approve"), st.integers(0, 1), st.integers(1, 3)),
            st.tuples(st.just("withdraw"), st.integers(0, 1), st.just(0)),
            st.tuples(st.just("run"), st.integers(0, 1), st.integers(0, 9)),
            st.tuples(st.just("restart"), st.just(0), st.just(0)),
        ),
        max_size=30,
    )
)
def test_the_new_runs_of_a_plan_never_exceed_those_that_were_approved(
    path: Path, make_plan: MakePlan, steps: list[tuple[str, int, int]]
) -> None:
    """Counted by hand: an approval adds runs, a withdrawal takes all that are left, a new run takes one."""
    with tempfile.TemporaryDirectory() as folder:
        organization = organization_with(path, plans="approved", max_epsilon=1e6, max_delta=2e-2)
        organization._folder = Path(folder)
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
        plans, left, runs = [make_plan(), make_plan(privacy={"epsilon": 7.0})], [0, 0], dict[str, int]()
        vault = vault_of(organization)
        for what, which, number in steps:
            plan, run = plans[which], f"run-{number}"
            if what == "approve":
                left[which] += number
                assert approve(organization, plan, number) == left[which]
            elif what == "withdraw":
                if plan.digest() in Approvals(organization.path("approved-plans.txt")).read():
                    withdraw(organization, plan.digest())
                left[which] = 0
            elif what == "restart":
                vault = vault_of(organization)
            else:
                known = run in runs
                request = TrainRequest(run, 1, plan.canonical(), "f", b"")
                if not known and left[which] == 0:
                    with pytest.raises(Refused, match="plan-not-approved"):
                        vault._check_approved(request, plan)
                    continue
                vault._check_approved(request, plan)
                if not known:
                    runs[run], left[which] = which, left[which] - 1
                    mechanism = Mechanism(0.1, 1.5, 12)
                    vault._ledger.reserve(Reservation(run, plan.digest(), "f", mechanism, 1.0, 1e-6, 2))

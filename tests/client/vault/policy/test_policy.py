"""organization.toml and the policy: valid settings, invalid settings, refused plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.vault.policy.organization import Organization
from client.vault.policy.policy import check_plan_fits, run_mechanism
from common.errors import InputError, Refused
from common.plan.plan import Plan
from common.privacy import accounting
from common.settings import template, validate
from tests.conftest import MakePlan


def organization(**sections: Any) -> Organization:
    values: dict[str, Any] = {
        "name": "st-mary",
        "data": {"train": "records.jsonl", "public_size": 1000},
        "models": {"base": "models/base"},
        "policy": {"max_epsilon": 8.0, "max_epsilon_per_run": 4.0, "max_delta": 1e-4},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return validate(values, Organization, "organization.toml")


def test_the_commented_file_is_a_valid_organization(tmp_path: Path) -> None:
    path = tmp_path / "organization.toml"
    path.write_text(template(Organization), encoding="utf-8")
    assert Organization.read(path).policy.max_epsilon == 8.0


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("data", {"public_size": 0}, "data.public_size = 0"),
        ("data", {"unit": "person"}, "data.unit = 'person': it should be 'example' or 'user'"),
        ("data", {"unit": "user"}, "data: user_field is missing"),
        ("data", {"user_field": "patient"}, "data: user_field = 'patient' needs unit = \"user\""),
        ("data", {"unit": "user", "user_field": ""}, "data.user_field = ''"),
        ("policy", {"max_delta": 1e-3}, "below 1 / public_size"),
        ("vault", {"max_rank": 0}, "vault.max_rank = 0: it should be greater than or equal to 1"),
        ("policy", {"max_epsilon": -1.0}, "policy.max_epsilon = -1.0"),
        ("policy", {"max_epsilonn": 1.0}, "did you mean 'max_epsilon'"),
    ],
)
def test_impossible_values_are_one_line(section: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        organization(**{section: values})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_with_another_unit_is_refused_by_either_kind_of_organization(make_plan: MakePlan) -> None:
    users = organization(data={"unit": "user", "user_field": "patient"})
    by_record = {"epsilon": 4.0, "delta": 1e-5}
    by_user = {**by_record, "unit": "user", "records_per_user": 3}
    for refusing, privacy in ((organization(), by_user), (users, by_record)):
        with pytest.raises(Refused, match=r"privacy.unit = .* for ever"):
            run_mechanism(refusing, make_plan(model={"base": "base"}, privacy=privacy))
    assert run_mechanism(users, make_plan(model={"base": "base"}, privacy=by_user)) == run_mechanism(
        organization(), make_plan(model={"base": "base"}, privacy=by_record)
    ), "the mechanism is the same, with users counted"


def test_models_are_folders_beside_the_file_and_only_those_that_are_listed(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    path = tmp_path / "organization.toml"
    path.write_text(template(Organization), encoding="utf-8")
    read = Organization.read(path)
    assert read.path("models/base") == tmp_path / "models" / "base"
    for name in ("/etc", "../secret", "another"):
        with pytest.raises(Refused, match="model-not-allowed"):
            read.model_folder(make_plan(model={"base": name}))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"privacy": {"epsilon": 4.1}}, "privacy.epsilon = 4.1"),
        ({"privacy": {"delta": 1e-3}}, "privacy.delta = 0.001"),
        ({"training": {"batch_size": 1001}}, "training.batch_size = 1001"),
        ({"task": {"max_length": 8193}}, "task.max_length = 8193; at most 8192 are allowed"),
    ],
)
def test_what_a_plan_asks_beyond_the_policy_is_named(
    make_plan: MakePlan, plan: dict[str, Any], message: str
) -> None:
    plan = dict(plan)
    privacy = {"epsilon": 4.0, "delta": 1e-5, **plan.pop("privacy", {})}
    request = make_plan(model={"base": "base"}, privacy=privacy, **plan)
    with pytest.raises(Refused, match="policy"):
        run_mechanism(organization(), request)
    with pytest.raises(InputError, match="st-mary") as caught:
        check_plan_fits(request, organization())
    assert message in str(caught.value)


def test_a_plan_of_a_rank_that_the_organization_does_not_train_is_refused_unless_it_allows_less(
    make_plan: MakePlan,
) -> None:
    privacy = {"epsilon": 4.0, "delta": 1e-5}

    def plan_with(**lora: int) -> Plan:
        return make_plan(model={"base": "base"}, lora=lora, aggregation={"method": "svd"}, privacy=privacy)

    small = organization(vault={"max_rank": 4})
    for allowed in (plan_with(rank=4), plan_with(rank=2), plan_with(rank=16, min_rank=4)):
        assert run_mechanism(small, allowed) == run_mechanism(organization(), allowed)
    for refused, message in (
        (plan_with(rank=16), "rank 4; all should train at lora.rank = 16"),
        (plan_with(rank=16, min_rank=8), "rank 4; it should be at least lora.min_rank = 8"),
    ):
        run_mechanism(organization(), refused)
        with pytest.raises(InputError, match=rf"vault\.max_rank = 4: {message}"):
            check_plan_fits(refused, small)


def test_a_run_that_the_looser_accountant_would_charge_beyond_its_epsilon_is_refused(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PRV would take too much memory, a run is charged by RDP."""
    monkeypatch.setattr(accounting, "_PRV_POINTS", 0)
    plan = make_plan(model={"base": "base"}, training={"batch_size": 37}, privacy={"epsilon": 3.9, "delta": 1e-5})
    with pytest.raises(Refused, match=r"privacy.epsilon = 3.9: a run with it would be charged ε = [4-9]"):
        run_mechanism(organization(), plan)

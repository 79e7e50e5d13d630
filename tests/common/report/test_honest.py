"""Whatever a vault can honestly state holds: its statements are made by its own code from a real ledger."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st

from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from client.vault.policy.organization import Organization
from client.vault.policy.policy import lifetime_cap, run_mechanism
from client.vault.statements import make_statement
from common.keys.statement_key import StatementKey
from common.plan.plan import Plan
from common.privacy.accounting import epsilon, total
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap, Composition
from common.protocol.statement import SAME_USER, SIMULATED, Statement
from common.report.report import problems
from common.settings import validate
from tests.common.report.reports import report_of
from tests.common.report.sample_run import RUN

KEY = StatementKey.generate()


@dataclass(frozen=True)
class Run:
    """A run of an organization.

    Attributes:
        share: of the expected batch in the public size.
        sigma: in thousandths.
    """

    share: float
    sigma: int
    rounds: int
    local_steps: int

    def mechanism(self, size: int) -> Mechanism:
        """Its mechanism at a public size."""
        return Mechanism(self.batch(size) / size, self.sigma / 1000, self.rounds * self.local_steps)

    def batch(self, size: int) -> int:
        """Its expected batch."""
        return max(1, round(self.share * size))


RUNS = st.builds(
    Run, st.floats(0.0, 1.0), st.integers(300, 20_000), st.integers(1, 20), st.sampled_from([1, 2, 8])
)
FEW, MANY = Run(0.1, 2_000, 10, 1), Run(0.001, 400, 20, 8)


def plan_of(run: Run, size: int, most: float, delta: float, unit: str) -> Plan:
    """The plan that asks for a run."""
    privacy = {"epsilon": most, "delta": delta, "unit": unit}
    return validate(
        {
            "name": "triage",
            "model": {"base": "base"},
            "training": {"rounds": run.rounds, "local_steps": run.local_steps, "batch_size": run.batch(size)},
            "privacy": {**privacy, **({"records_per_user": 4} if unit == "user" else {})},
        },
        Plan,
        "the test's plan",
    )


def organization_of(size: int, unit: str, composition: Composition, cap: Cap, sigma: float = 0.3) -> Organization:
    """An organization whose policy has these caps and this least noise."""
    return validate(
        {
            "name": "st-mary",
            "data": {"train": "records.jsonl", "public_size": size, "unit": unit}
            | ({"user_field": "patient"} if unit == "user" else {}),
            "models": {"base": "base"},
            "policy": {
                "max_epsilon": cap.epsilon,
                "max_epsilon_per_run": 20.0,
                "max_delta": cap.delta,
                "composition": composition,
                "min_noise_multiplier": sigma,
            },
        },
        Organization,
        "organization.toml",
    )


def stated(organization: Organization, reservations: Sequence[Reservation], simulation: bool) -> Statement:
    """The statement of the first of several runs, after all are charged and it went over the wire."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(
            Path(folder) / "ledger.db",
            organization.name,
            organization.data.unit,
            None if simulation else KEY,
            composition=organization.policy.composition,
        )
        ledger.cap.set_or_lower(lifetime_cap(organization))
        for reservation in reservations:
            ledger.reserve(reservation)
        boundary = SIMULATED if simulation else SAME_USER
        statement = make_statement(organization, ledger, reservations[0], boundary)
        ledger.close()
    return Statement.from_json(statement.to_json())


def reserved(run: str, mechanism: Mechanism, plan: Plan) -> Reservation:
    """A run's reservation, as a vault makes it."""
    delta = plan.privacy.delta
    return Reservation(
        run, plan.digest(), "cd" * 32, mechanism, epsilon(mechanism, delta), delta, plan.training.rounds
    )


def found(statement: Statement, plan: Plan) -> list[str]:
    keys = {} if statement.boundary == SIMULATED else {"st-mary": KEY.public}
    return problems(report_of(statement, keys, plan=plan))


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    size=st.one_of(st.integers(1, 30), st.integers(31, 10**7)),
    runs=st.lists(RUNS, min_size=1, max_size=3),
    share=st.floats(1e-6, 0.9),
    cap_share=st.floats(1e-6, 0.9),
    slack=st.sampled_from([0.0, 1e-4, 3.0]),
    composition=st.sampled_from(["basic", "renyi"]),
    unit=st.sampled_from(["example", "user"]),
    simulation=st.booleans(),
)
@example(10_000, [FEW], 0.1, 0.1, 0.0, "basic", "example", False)
@example(10_000, [FEW, FEW, FEW], 0.9, 0.01, 0.0, "renyi", "user", False)
@example(10_000, [MANY, FEW], 0.9, 0.1, 3.0, "basic", "example", True)
@example(1, [Run(1.0, 20_000, 1, 1)], 0.9, 0.1, 0.0, "basic", "example", False)
def test_an_honest_statement_holds(
    size: int,
    runs: list[Run],
    share: float,
    cap_share: float,
    slack: float,
    composition: Composition,
    unit: Literal["example", "user"],
    simulation: bool,
) -> None:
    """The policy's least noise is each run's own, and a plan allows that run's ε or more: both are the vault's."""
    delta = share / size / len(runs)
    mechanisms = [run.mechanism(size) for run in runs]
    # No plan allows more than 20; the PRV accountant is slow far above it.
    assume(all(epsilon(mechanism, delta, "rdp") < 22 for mechanism in mechanisms))
    costs = [max(epsilon(mechanism, delta), 0.01) for mechanism in mechanisms]
    assume(all(cost + slack <= 20 for cost in costs))
    plans = [plan_of(run, size, cost + slack, delta, unit) for run, cost in zip(runs, costs, strict=True)]
    names = [RUN, *(f"triage-{number}" for number in range(1, len(runs)))]
    charged = [reserved(*item) for item in zip(names, mechanisms, plans, strict=True)]
    # The least cap that covers the runs; δ of the Rényi filter may be any, also below that of a run.
    cap_delta = (
        cap_share / size if composition == "renyi" else math.nextafter(float(total([delta] * len(runs))), 1.0)
    )
    spent = Cap(1.0, cap_delta, composition).spent([item.cost for item in charged])
    cap = Cap(max(spent, 1e-4), cap_delta, composition)
    statement = stated(organization_of(size, unit, composition, cap), charged, simulation)
    assert statement.lifetime.epsilon_spent == spent
    assert found(statement, plans[0]) == []


@pytest.mark.parametrize("composition", ["basic", "renyi"])
@pytest.mark.parametrize(
    ("most", "least_noise"), [(0.5, 0.3), (20.0, 0.3), (8.0, 1.23456789)], ids=["little", "much", "raised"]
)
def test_the_noise_that_a_vault_computes_for_a_plan_holds(
    composition: Composition, most: float, least_noise: float
) -> None:
    plan = plan_of(Run(0.0256, 1, 20, 4), 10_000, most, 1e-5, "example")
    organization = organization_of(10_000, "example", composition, Cap(100.0, 4e-5, composition), least_noise)
    mechanism = run_mechanism(organization, plan)
    assert (mechanism.noise_multiplier == least_noise) == (most == 8.0)
    statement = stated(organization, [reserved(RUN, mechanism, plan)], simulation=False)
    assert found(statement, plan) == []
    # The same with a little less noise than the plan needs, and its true cost, does not hold.
    if least_noise == 0.3:
        smaller = replace(mechanism, noise_multiplier=mechanism.noise_multiplier - 0.002)
        statement = stated(organization, [reserved(RUN, smaller, plan)], simulation=False)
        assert ["the plan allows" in text for text in found(statement, plan)] == [True]

"""A finished run with signed statements, made without training: what the privacy report is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common.keys.statement_key import StatementKey
from common.plan.plan import Plan
from common.privacy.mechanism import Mechanism
from common.protocol.statement import SAME_USER, SIMULATED, Head, Lifetime, Statement
from common.run.round_line import RoundLine
from common.run.summary import RunSummary
from common.settings import validate

RUN = "triage-2026-11-22-1a2b3c4d"
SHAPES = {"q_proj.lora_A.weight": (2, 6), "q_proj.lora_B.weight": (4, 2)}
PLAN = validate(
    {
        "name": "triage",
        "model": {"base": "HuggingFaceTB/SmolLM2-135M"},
        "lora": {"rank": 2},
        "training": {"rounds": 20, "local_steps": 4, "batch_size": 256},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
    },
    Plan,
    "the test's plan",
)
VERSIONS = {"python": "3.11.7", "sotto": "0.1.0", "opacus": "1.6.0", "torch": "2.13.0"}
# Public size → (noise multiplier, ε): by Opacus' PRVAccountant, 0.002 above what dp_accounting's PLD gives, 7.7982
# and 7.8686.
COSTS = {10_000: (0.56, 7.7999), 20_000: (0.48, 7.8703)}


def statement(name: str, size: int = 10_000, **changed: Any) -> Statement:
    """An unsigned statement about RUN, as a vault of an organization without earlier runs makes it."""
    sigma, epsilon = COSTS[size]
    made = Statement(
        organization=name,
        run=RUN,
        plan=PLAN.digest(),
        fingerprint="cd" * 32,
        unit="example",
        public_size=size,
        mechanisms=(Mechanism(256 / size, sigma, 80),),
        epsilon=epsilon,
        delta=1e-5,
        lifetime=Lifetime(epsilon, 16.0, 4e-5, "basic-composition-filter"),
        boundary=SAME_USER,
        versions=VERSIONS,
        head=Head("ab" * 16, 21, "ef" * 32, ""),
    )
    return replace(made, **changed)


def signed(made: Statement, key: StatementKey) -> Statement:
    """The statement with its key and signature."""
    named = replace(made, key=key.public)
    return replace(named, signature=key.sign(named.signed_bytes()))


def simulated(name: str) -> Statement:
    """A simulated organization's: without key and signature."""
    return statement(name, boundary=SIMULATED)


def classes_plan(labels: list[str], **evaluation: Any) -> Plan:
    """PLAN with the task of telling classes."""
    values: dict[str, Any] = PLAN.model_dump(exclude_none=True)
    task = {"kind": "classification", "labels": labels}
    return validate({**values, "task": task, "evaluation": evaluation}, Plan, "the test's plan")


def summary(rounds: Sequence[RoundLine], plan: Plan = PLAN, **changed: Any) -> RunSummary:
    """The run with these rounds."""
    return replace(RunSummary(RUN, plan, True, "cd" * 32, SHAPES, rounds), **changed)

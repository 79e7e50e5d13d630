"""Verification of a statement: its signature, its numbers, and its agreement with the plan of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from common.keys.statement_key import is_signed
from common.plan.plan import Plan
from common.protocol.statement import SIMULATED, Statement
from common.report.accountants import LifetimeRule, rules
from common.untrusted import printable

SignatureState = Literal["valid", "none", "unregistered", "invalid"]

# The fourth decimal of an ε may differ between machines.
_ROUNDING = 2e-4


def signature_state(statement: Statement, run: str, keys: Mapping[str, str]) -> SignatureState:
    """Verify the signature of a statement.

    Args:
        statement: of an organization.
        run: the id of the run that the statement should be about.
        keys: organization → its registered public key.

    Returns:
        "valid"; "none" for a simulated organization, whose statements are not signed; "unregistered" if the
        organization registered no key and the signature matches the key in the statement; "invalid" if the
        statement was altered or forged, or belongs to another run.
    """
    if statement.run != run:
        return "invalid"
    key = keys.get(statement.organization)
    if key is not None:
        return "valid" if is_signed(statement.signed_bytes(), statement.signature, key) else "invalid"
    if not statement.signature and statement.boundary.startswith(SIMULATED):
        return "none"
    # The key inside the statement proves nothing: a forger would include a key that matches.
    matches = is_signed(statement.signed_bytes(), statement.signature, statement.key)
    return "unregistered" if matches else "invalid"


def statement_problems(
    statement: Statement, recomputed: float, signature: SignatureState, plan: Plan | None
) -> list[str]:
    """List the reasons why a statement does not hold, one sentence each; empty if it holds.

    Args:
        statement: of an organization.
        recomputed: ε of the statement's mechanism.
        signature: state of the statement's signature.
        plan: of the run; without it, agreement with the plan is not checked.
    """
    problems = []
    if signature == "invalid":
        problems.append("the statement was altered or forged, or is from another run")
    problems += accountant_problems(statement)
    if abs(statement.epsilon - recomputed) > _ROUNDING:
        problems.append(f"it states ε = {statement.epsilon}; its mechanism costs {recomputed}")
    problems += delta_problems(statement)
    problems += spent_problems(statement)
    if statement.adjacency != "add-remove":
        problems.append(
            f"it states the adjacency {printable(statement.adjacency)!r}; ε was recomputed for add-remove"
        )
    return problems + ([] if plan is None else _differences(statement, recomputed, plan))


def statement_warnings(statement: Statement, signature: SignatureState) -> list[str]:
    """List what a reader should know about a statement that holds, one sentence each."""
    warnings, raised = [], statement.lifetime.raised
    if signature == "unregistered":
        warnings.append("it registered no key, so it is unknown who signed its statement")
    if raised:
        warnings.append(f"its lifetime cap was raised {'once' if raised == 1 else f'{raised} times'}")
    return warnings


def _lifetime_rule(statement: Statement) -> LifetimeRule | None:
    return rules(statement).lifetime.get(statement.lifetime.accountant)


def accountant_problems(statement: Statement) -> list[str]:
    """List the accountants that no vault uses: nothing is known about the meaning of their numbers."""
    known, problems = rules(statement), []
    if statement.accountant != known.accountant:
        problems.append(
            f"its accountant is {printable(statement.accountant)!r}; it should be {known.accountant!r}"
        )
    if _lifetime_rule(statement) is None:
        names = " or ".join(repr(name) for name in known.lifetime)
        problems.append(
            f"its accountant over all runs is {printable(statement.lifetime.accountant)!r}; it should be {names}"
        )
    return problems


def delta_problems(statement: Statement) -> list[str]:
    """List the δ's that no vault accepts: at 1 / public_size publishing whole records would be allowed."""
    limit, rule = 1 / max(statement.public_size, 1), _lifetime_rule(statement)
    deltas = {"δ": statement.delta, "δ over all runs": statement.lifetime.delta}
    problems = [
        f"its {name} is {value}; it should be below 1 / public_size = {limit:g}"
        for name, value in deltas.items()
        if value >= limit
    ]
    if rule is not None and statement.lifetime.delta < rule.least_delta(statement):
        problems.append(f"its δ over all runs is {statement.lifetime.delta}; this run alone has {statement.delta}")
    return problems


def spent_problems(statement: Statement) -> list[str]:
    """List where ε over all runs is below the cost of this run alone, or above the cap."""
    lifetime, rule, problems = statement.lifetime, _lifetime_rule(statement), []
    least = 0.0 if rule is None else rule.least_epsilon(statement)
    if lifetime.epsilon_spent < least - _ROUNDING:
        problems.append(
            f"it states ε = {lifetime.epsilon_spent} over all its runs; this run alone costs {least} by "
            f"{lifetime.accountant}"
        )
    if lifetime.epsilon_spent > lifetime.max_epsilon + _ROUNDING:
        problems.append(f"it spent ε = {lifetime.epsilon_spent}, above its cap of {lifetime.max_epsilon}")
    return problems


def _differences(statement: Statement, recomputed: float, plan: Plan) -> list[str]:
    """List where a statement disagrees with the plan. More noise than the plan needs is not a disagreement."""
    (mechanism,) = statement.mechanisms
    batch, steps = plan.training.batch_size, plan.training.rounds * plan.training.local_steps
    differences = []
    if statement.plan != plan.digest():
        differences.append("its statement is about another plan")
    if statement.unit != plan.privacy.unit:
        differences.append(f"its unit is {printable(statement.unit)!r}; the plan's is {plan.privacy.unit!r}")
    if not math.isclose(mechanism.sample_rate * statement.public_size, batch, rel_tol=1e-9):
        differences.append(
            f"its sample rate is {mechanism.sample_rate:.6g}; the plan's batch of {batch} by its public size "
            f"is {batch / max(statement.public_size, 1):.6g}"
        )
    if mechanism.steps != steps:
        differences.append(f"its mechanism has {mechanism.steps} steps; the plan has {steps}")
    if statement.delta != plan.privacy.delta:
        differences.append(f"its δ is {statement.delta}; the plan's is {plan.privacy.delta}")
    if recomputed > plan.privacy.epsilon + _ROUNDING:
        differences.append(f"its mechanism costs ε = {recomputed}; the plan allows {plan.privacy.epsilon}")
    return differences

"""The privacy report of a run: what each organization's release cost, recomputed from the mechanisms."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

from common.keys.statement_key import is_signed, key_fingerprint
from common.plan.plan import Plan
from common.privacy.accounting import epsilon
from common.privacy.privacy_filter import Cap
from common.protocol.statement import SIMULATED, Statement
from common.untrusted import printable

# What a statement's unit means, in words.
_UNITS = {"example": "example", "user": "user with all their records there"}
# Two machines may compute the last of four decimals differently.
_ROUNDING = 2e-4

# What a lifetime spent so far is at least, if costs are added up: that of this run.
_BASIC = Cap(1.0, 1.0, "basic").accountant

NOT_COVERED = (
    "a person with records at several organizations: the ε's add up",
    "the time that a round takes, which follows the batch that was drawn",
    "poisoning: an organization that trains to harm the model",
    "what the base model had memorized before",
    "tuning runs made outside the ledger",
    "a public_size that was copied from the true number of records or users",
    "whoever controls the installed package or the organization's machine",
)


def two_decimals(value: float) -> str:
    """An ε with two decimals, rounded up: what is shown is never below what was spent."""
    return str(Decimal(repr(value)).quantize(Decimal("0.01"), rounding=ROUND_CEILING))


def guarantee(statements: Sequence[Statement], doubted: Collection[str] = ()) -> str:
    """The guarantee in one plain sentence with its numbers.

    Args:
        statements: of the run's organizations.
        doubted: organizations whose statements do not hold; nothing is guaranteed for them.
    """
    if not statements:
        return "No guarantee: no organization states what this run cost it, as in a run without privacy."
    sound = [item for item in statements if item.organization not in doubted]
    without = f" There is no guarantee for {', '.join(printable(name) for name in sorted(doubted))}."
    if not sound:
        return f"No guarantee: no statement of this run holds.{without}"
    costs = ", ".join(
        f"{printable(item.organization)}: ({two_decimals(item.lifetime.epsilon_spent)}, {item.lifetime.delta:g}) "
        f"for one {_UNITS.get(item.unit, printable(item.unit))}"
        for item in sound
    )
    simulated = any(item.boundary.startswith(SIMULATED) for item in sound)
    protects = (
        " This was a simulation: all records were in one process, which protects nobody." if simulated else ""
    )
    return (
        "For each organization, everything it released during all its runs, taken together, is (ε, δ)-"
        "differentially private with respect to adding or removing one unit, against the server, the other "
        f"organizations and anyone who sees the resulting model [{costs}]. The ledger records the mechanisms, "
        "from which anyone recomputes ε; that they were executed as recorded is attested by the organization, "
        f"not proven.{without if doubted else ''}{protects}"
    )


def build_report(
    run: str,
    statements: Sequence[Statement],
    keys: Mapping[str, str],
    *,
    plan: Plan | None = None,
    answered: Iterable[str] = (),
) -> dict[str, Any]:
    """`privacy/report.json`: for machines.

    Every ε is recomputed here from the mechanisms; `epsilon_stated` is what the organization wrote.

    Args:
        run: the run's id.
        statements: of its organizations.
        keys: organization → the public key that it registered with the coordinator.
        plan: of the run; a statement that says otherwise does not hold.
        answered: organizations that answered a round, and so should have a statement.
    """
    organizations = [_organization(item, run, keys, plan) for item in statements]
    doubted = {item["name"] for item in organizations if item["problems"]}
    missing = sorted(set(answered) - {item["name"] for item in organizations}) if statements else []
    return {
        "run": run,
        "guarantee": guarantee(statements, doubted),
        "epsilon": max((item["epsilon"] for item in organizations), default=None),
        "organizations": organizations,
        "missing_statements": missing,
        "not_covered": list(NOT_COVERED),
    }


def signature_state(statement: Statement, run: str, keys: Mapping[str, str]) -> str:
    """What a statement's signature is worth.

    Returns:
        "valid"; "none" for a simulation's, which are not signed; "unregistered" if the organization registered no
        key and the signature fits the key in the statement; "invalid" if it is altered, forged, or another run's.
    """
    if statement.run != run:
        return "invalid"
    key = keys.get(statement.organization)
    if key is not None:
        return "valid" if is_signed(statement.signed_bytes(), statement.signature, key) else "invalid"
    if not statement.signature and statement.boundary.startswith(SIMULATED):
        return "none"
    # The key inside the statement proves nothing: whoever forges a statement writes a key that fits.
    fits = is_signed(statement.signed_bytes(), statement.signature, statement.key)
    return "unregistered" if fits else "invalid"


def problems(report: Mapping[str, Any]) -> list[str]:
    """What is wrong with a report's statements, one sentence each; empty if nothing is."""
    return [f"{printable(item['name'])}: {text}" for item in report["organizations"] for text in item["problems"]]


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What a reader should know about a report's statements, one sentence each."""
    return [f"{printable(item['name'])}: {text}" for item in report["organizations"] for text in item["warnings"]]


def _problems(statement: Statement, recomputed: float, signature: str, plan: Plan | None) -> list[str]:
    found = []
    if signature == "invalid":
        found.append("the statement was altered or forged, or is another run's")
    if statement.epsilon < recomputed - _ROUNDING:
        found.append(f"it states ε = {statement.epsilon}; its mechanism costs {recomputed}")
    lifetime = statement.lifetime
    if lifetime.accountant == _BASIC and lifetime.epsilon_spent < recomputed - _ROUNDING:
        found.append(
            f"it states ε = {lifetime.epsilon_spent} over all its runs; this run alone costs {recomputed}"
        )
    if lifetime.epsilon_spent > lifetime.max_epsilon + _ROUNDING:
        found.append(f"it spent ε = {lifetime.epsilon_spent}, above its cap of {lifetime.max_epsilon}")
    if statement.adjacency != "add-remove":
        found.append(
            f"it states the adjacency {printable(statement.adjacency)!r}; ε was recomputed for add-remove"
        )
    return found + ([] if plan is None else _differences(statement, plan))


def _differences(statement: Statement, plan: Plan) -> list[str]:
    """Where a statement is not about the run's plan; more noise than the plan needs is no difference."""
    (mechanism,) = statement.mechanisms
    batch, steps = plan.training.batch_size, plan.training.rounds * plan.training.local_steps
    found = []
    if statement.plan != plan.digest():
        found.append("its statement is about another plan")
    if statement.unit != plan.privacy.unit:
        found.append(f"its unit is {printable(statement.unit)!r}; the plan's is {plan.privacy.unit!r}")
    if not math.isclose(mechanism.sample_rate * statement.public_size, batch, rel_tol=1e-9):
        found.append(
            f"its sample rate is {mechanism.sample_rate:.6g}; the plan's batch of {batch} by its public size "
            f"is {batch / max(statement.public_size, 1):.6g}"
        )
    if mechanism.steps != steps:
        found.append(f"its mechanism has {mechanism.steps} steps; the plan has {steps}")
    if statement.delta != plan.privacy.delta:
        found.append(f"its δ is {statement.delta:g}; the plan's is {plan.privacy.delta:g}")
    return found


def _warnings(signature: str) -> list[str]:
    if signature == "unregistered":
        return ["it registered no key, so that nobody knows who signed its statement"]
    return []


def _organization(statement: Statement, run: str, keys: Mapping[str, str], plan: Plan | None) -> dict[str, Any]:
    values = statement.to_dict()
    kept = (
        "unit",
        "adjacency",
        "public_size",
        "boundary",
        "mechanisms",
        "delta",
        "accountant",
        "lifetime",
        "plan",
        "fingerprint",
        "versions",
        "head",
        "key",
    )
    (mechanism,) = statement.mechanisms
    recomputed = epsilon(mechanism, statement.delta)
    signature = signature_state(statement, run, keys)
    return {
        "name": statement.organization,
        **{key: values[key] for key in kept},
        "epsilon": recomputed,
        "epsilon_rdp": epsilon(mechanism, statement.delta, "rdp"),
        "epsilon_stated": statement.epsilon,
        "signature": signature,
        "key_fingerprint": key_fingerprint(statement.key),
        "registered_key_fingerprint": key_fingerprint(keys.get(statement.organization, "")),
        "problems": _problems(statement, recomputed, signature, plan),
        "warnings": _warnings(signature),
    }

"""The privacy report of a run: what each organization's release cost, recomputed from the mechanisms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.accounting import epsilon
from common.protocol import SIMULATED, Statement

NOT_COVERED = (
    "a person with records at several organizations: the ε's add up",
    "the time that a round takes, which follows the batch that was drawn",
    "poisoning: an organization that trains to harm the model",
    "what the base model had memorized before",
    "tuning runs made outside the ledger",
    "a public_size that was copied from the true number of records",
    "whoever controls the installed package or the organization's machine",
)


def guarantee(statements: Sequence[Statement]) -> str:
    """The guarantee in one plain sentence with its numbers."""
    if not statements:
        return "No guarantee: no organization states what this run cost it, as in a run without privacy."
    costs = ", ".join(
        f"{item.organization}: ({item.lifetime.epsilon_spent:.2f}, {item.lifetime.delta:g}) for one {item.unit}"
        for item in statements
    )
    simulated = any(item.boundary.startswith(SIMULATED) for item in statements)
    protects = (
        " This was a simulation: all records were in one process, which protects nobody." if simulated else ""
    )
    return (
        "For each organization, everything it released during all its runs, taken together, is (ε, δ)-"
        "differentially private with respect to adding or removing one unit, against the server, the other "
        f"organizations and anyone who sees the resulting model [{costs}]. The ledger records the mechanisms, "
        "from which anyone recomputes ε; that they were executed as recorded is attested by the organization, "
        f"not proven.{protects}"
    )


def build_report(run: str, statements: Sequence[Statement]) -> dict[str, Any]:
    """`privacy/report.json`: for machines.

    Every ε is recomputed here from the mechanisms; `epsilon_stated` is what the organization wrote. Statements
    carry no signature yet.
    """
    return {
        "run": run,
        "guarantee": guarantee(statements),
        "epsilon": max((_recomputed(item) for item in statements), default=None),
        "organizations": [_organization(item) for item in statements],
        "not_covered": list(NOT_COVERED),
    }


def _organization(statement: Statement) -> dict[str, Any]:
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
    )
    return {
        "name": statement.organization,
        **{key: values[key] for key in kept},
        "epsilon": _recomputed(statement),
        "epsilon_rdp": epsilon(statement.mechanisms[0], statement.delta, "rdp"),
        "epsilon_stated": statement.epsilon,
        "signature": "none",
    }


def _recomputed(statement: Statement) -> float:
    # A run has one mechanism; more would need a composition that this report does not make.
    (mechanism,) = statement.mechanisms
    return epsilon(mechanism, statement.delta)

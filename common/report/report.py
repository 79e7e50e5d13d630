"""The privacy report of a run: ε of each organization, recomputed from the mechanisms in its statement.

A report is plain JSON: `to_json` writes it as `privacy/report.json`, whose keys are fixed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import NotRequired, TypedDict

from common.keys.statement_key import key_fingerprint
from common.plan.plan import Plan
from common.privacy.accounting import epsilon
from common.protocol.statement import SIMULATED, Statement
from common.report.accountants import rules
from common.report.verification import SignatureState, signature_state, statement_problems, statement_warnings
from common.untrusted import printable

# The unit of a statement in the guarantee's sentence.
_UNITS = {"example": "example", "user": "user with all their records there"}

NOT_COVERED = (
    "a person with records at several organizations: the ε's add up",
    "the time that a round takes, which follows the batch that was drawn",
    "poisoning: an organization that trains to harm the model",
    "what the base model had memorized before",
    "tuning runs made outside the ledger",
    "a public_size that was copied from the true number of records or users",
    "whoever controls the installed package or the organization's machine",
)


class MechanismEntry(TypedDict):
    """A mechanism, as in the statement."""

    kind: str
    sample_rate: float
    noise_multiplier: float
    steps: int


class LifetimeEntry(TypedDict):
    """The budget of an organization over all its runs, as in the statement.

    Attributes:
        raised: how many times the cap was raised; absent if never.
    """

    epsilon_spent: float
    max_epsilon: float
    delta: float
    accountant: str
    raised: NotRequired[int]


class HeadEntry(TypedDict):
    """The head of an organization's ledger, as in the statement."""

    data_set: str
    number: int
    digest: str
    signature: str


class OrganizationEntry(TypedDict):
    """One organization of a report.

    Attributes:
        epsilon: recomputed from the mechanism; `epsilon_rdp` likewise, by the RDP accountant.
        epsilon_stated: ε as in the statement.
        signature: state of the statement's signature.
        key_fingerprint: of the key in the statement; empty if there is none.
        registered_key_fingerprint: of the registered key; empty if there is none.
        problems: why the statement does not hold; empty if it holds.
        warnings: what a reader should know about it.
    """

    name: str
    unit: str
    adjacency: str
    public_size: int
    boundary: str
    mechanisms: list[MechanismEntry]
    delta: float
    accountant: str
    lifetime: LifetimeEntry
    plan: str
    fingerprint: str
    versions: dict[str, str]
    head: HeadEntry
    key: str
    epsilon: float
    epsilon_rdp: float
    epsilon_stated: float
    signature: SignatureState
    key_fingerprint: str
    registered_key_fingerprint: str
    problems: list[str]
    warnings: list[str]


class PrivacyReport(TypedDict):
    """The contents of `privacy/report.json`.

    Attributes:
        run: the run's id.
        guarantee: in one sentence.
        epsilon: the largest of the organizations whose statements hold; None without any.
        organizations: one entry for each statement.
        missing_statements: organizations that answered a round and sent no statement.
        not_covered: what the guarantee does not cover, one sentence each.
    """

    run: str
    guarantee: str
    epsilon: float | None
    organizations: list[OrganizationEntry]
    missing_statements: list[str]
    not_covered: list[str]


def build_report(
    run: str,
    statements: Sequence[Statement],
    keys: Mapping[str, str],
    *,
    plan: Plan | None = None,
    answered: Iterable[str] = (),
) -> PrivacyReport:
    """Verify the statements of a run and recompute every ε from its mechanism.

    Args:
        run: the run's id.
        statements: of the run's organizations.
        keys: organization → its registered public key.
        plan: of the run; a statement that disagrees with it does not hold.
        answered: organizations that answered a round, and should therefore have a statement.
    """
    organizations = [_organization(statement, run, keys, plan) for statement in statements]
    invalid = {item["name"] for item in organizations if item["problems"]}
    missing = sorted(set(answered) - {item["name"] for item in organizations}) if statements else []
    return {
        "run": run,
        "guarantee": guarantee(statements, invalid),
        "epsilon": max((item["epsilon"] for item in organizations if not item["problems"]), default=None),
        "organizations": organizations,
        "missing_statements": missing,
        "not_covered": list(NOT_COVERED),
    }


def guarantee(statements: Sequence[Statement], invalid: Collection[str] = ()) -> str:
    """Return the guarantee as one plain sentence with its numbers.

    Args:
        statements: of the run's organizations.
        invalid: organizations whose statements do not hold; nothing is guaranteed for them.
    """
    if not statements:
        return "No guarantee: no organization states what this run cost it, as in a run without privacy."
    valid = [item for item in statements if item.organization not in invalid]
    without = f" There is no guarantee for {', '.join(printable(name) for name in sorted(invalid))}."
    if not valid:
        return f"No guarantee: no statement of this run holds.{without}"
    costs = ", ".join(
        f"{printable(item.organization)}: ({two_decimals(item.lifetime.epsilon_spent)}, {item.lifetime.delta:g}) "
        f"for one {_UNITS.get(item.unit, printable(item.unit))}"
        for item in valid
    )
    simulated = any(item.boundary.startswith(SIMULATED) for item in valid)
    protects = (
        " This was a simulation: all records were in one process, which protects nobody." if simulated else ""
    )
    return (
        "For each organization, everything it released during all its runs, taken together, is (ε, δ)-"
        "differentially private with respect to adding or removing one unit, against the server, the other "
        f"organizations and anyone who sees the resulting model [{costs}]. The ledger records the mechanisms, "
        "from which anyone recomputes ε; that they were executed as recorded is attested by the organization, "
        f"not proven.{without if invalid else ''}{protects}"
    )


def problems(report: PrivacyReport) -> list[str]:
    """List why statements of a report do not hold, one sentence each; empty if all hold."""
    return [f"{printable(item['name'])}: {text}" for item in report["organizations"] for text in item["problems"]]


def warnings(report: PrivacyReport) -> list[str]:
    """List what a reader should know about the statements of a report, one sentence each."""
    return [f"{printable(item['name'])}: {text}" for item in report["organizations"] for text in item["warnings"]]


def two_decimals(value: float) -> str:
    """Format an ε with two decimals, rounded up: the displayed value is never below the true one.

    >>> two_decimals(7.8002)
    '7.81'
    """
    return str(Decimal(repr(value)).quantize(Decimal("0.01"), rounding=ROUND_CEILING))


def to_json(report: PrivacyReport) -> str:
    """Return the text of `privacy/report.json`."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _organization(statement: Statement, run: str, keys: Mapping[str, str], plan: Plan | None) -> OrganizationEntry:
    values = statement.to_dict()
    (mechanism,) = statement.mechanisms
    recomputed = rules(statement).epsilon(mechanism, statement.delta)
    signature = signature_state(statement, run, keys)
    return {
        "name": statement.organization,
        "unit": statement.unit,
        "adjacency": statement.adjacency,
        "public_size": statement.public_size,
        "boundary": statement.boundary,
        "mechanisms": values["mechanisms"],
        "delta": statement.delta,
        "accountant": statement.accountant,
        "lifetime": values["lifetime"],
        "plan": statement.plan,
        "fingerprint": statement.fingerprint,
        "versions": statement.versions,
        "head": values["head"],
        "key": statement.key,
        "epsilon": recomputed,
        "epsilon_rdp": epsilon(mechanism, statement.delta, "rdp"),
        "epsilon_stated": statement.epsilon,
        "signature": signature,
        "key_fingerprint": key_fingerprint(statement.key),
        "registered_key_fingerprint": key_fingerprint(keys.get(statement.organization, "")),
        "problems": statement_problems(statement, recomputed, signature, plan),
        "warnings": statement_warnings(statement, signature),
    }
